// SPDX-License-Identifier: Apache-2.0
#include "disguise/train/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/strings.h"
#include "disguise/set/set.h"
#include "disguise/train/evaluate.h"
#include "disguise/train/rows.h"
#include "ensemble/model/precision.h"
#include "experiment/setup.h"
#include "experiment/train_net.h"
#include "nn/autograd/ops.h"
#include "nn/optim/fit.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int kLeastPooled = 64;  // pixels: the stem of a net does not pool smaller images
constexpr const char* kStage = "stage1";

// What decides the weights, and how the set was disguised. The owner's other settings are none of
// the cloud's business.
RunConfig cloud_config(const RunConfig& config, const DisguisedSetInfo& set) {
  RunConfig own;
  parse_config(set.settings, "the set's settings", *own.mutable_disguise());
  own.mutable_disguise()->set_method(set.method);
  own.set_seed(config.seed());
  own.set_device(config.device());
  own.set_dtype(config.dtype());
  own.set_tf32(config.tf32());
  *own.mutable_model() = config.model();
  *own.mutable_stage1() = config.stage1();
  complete(own);
  return own;
}

// Of rows [n, d], whose n codes are in an order that says nothing: one mean and deviation for all.
ModelSpec spec_of_codes(ModelSpec spec, const DisguisedSetInfo& set) {
  spec.tokens = static_cast<int>(set.shape[0]);
  spec.channels = static_cast<int>(set.shape[1]);
  double mean = 0, square = 0;
  for (size_t i = 0; i < set.mean.size(); ++i) {
    mean += set.mean[i];
    square += double{set.stddev[i]} * set.stddev[i] + double{set.mean[i]} * set.mean[i];
  }
  const double n = static_cast<double>(set.mean.size());
  mean /= n;
  spec.mean = {static_cast<float>(mean)};
  spec.stddev = {static_cast<float>(std::sqrt(std::max(square / n - mean * mean, 1e-12)))};
  check(spec, {0, 0});
  return spec;
}

ModelSpec spec_of(const RunConfig& config, const DisguisedSetInfo& set) {
  ModelSpec spec = model_spec(config.model());
  spec.classes = set.classes;
  if (set.shape.rank() == 2) return spec_of_codes(spec, set);
  if (set.shape.rank() != 3) {
    usage_fail("disguised images of shape " + set.shape.str() + " are no pictures", "the set");
  }
  spec.channels = static_cast<int>(set.shape[0]);
  spec.image_size = static_cast<int>(set.shape[1]);
  if (set.shape[2] != set.shape[1]) spec.image_width = static_cast<int>(set.shape[2]);
  spec.stem_pool = spec.stem_pool && std::min(set.shape[1], set.shape[2]) >= kLeastPooled;
  spec.mean = set.mean;
  spec.stddev = set.stddev;
  check(spec, {0, 0});
  return spec;
}

void check_split(const DisguisedSetInfo& set, const std::string& wanted, const std::string& where) {
  if (set.split == wanted) return;
  usage_fail("a disguised " + set.split + " set, and not a " + wanted + " set", where,
             "name the set that was made of the " + wanted + " images");
}

void check_pair(const DisguisedSetInfo& train, const DisguisedSetInfo& test) {
  check_split(test, "test", "--test");
  const auto differ = [](const std::string& what) {
    usage_fail("the test set has another " + what + " than the training set", "--test",
               "disguise both with one key");
  };
  if (test.method != train.method) differ("method");
  if (!(test.shape == train.shape)) differ("shape");
  if (test.classes != train.classes) differ("number of classes");
  if (test.key_id != train.key_id) differ("key (" + test.key_id + ", " + train.key_id + ")");
}

// A training that was interrupted goes on with the set that it began with.
void keep_set(const RunDir& run, const std::string& set_id) {
  const fs::path file = run.path("set_id");
  if (const auto before = read_file_if_there(file)) {
    if (trimmed(*before) != set_id) {
      usage_fail(
          "the folder holds a training on another set, " + trimmed(*before) + " and not " + set_id,
          run.folder().string(), "name that set, or another --out");
    }
  } else {
    write_file_atomically(file, set_id + "\n", /*secret=*/false);
  }
}

// The first epoch after which the accuracy was 95 % of the last one's; 0: not measured.
int epochs_to_95(const fs::path& folder) {
  std::vector<double> accuracies;
  for (const Metric& m : read_run(folder).metrics) {
    if (m.stage == kStage && m.name == "accuracy") accuracies.push_back(m.value);
  }
  if (accuracies.empty()) return 0;
  const auto reached = std::ranges::find_if(
      accuracies, [&](double value) { return value >= 0.95 * accuracies.back(); });
  return static_cast<int>(reached - accuracies.begin()) + 1;
}

class CloudTraining {
 public:
  CloudTraining(const RunConfig& config, RunDir& run, const DisguisedSetReader& train,
                const DisguisedSetReader* test)
      : config_(config),
        run_(run),
        train_(train),
        test_(test),
        device_(devices_for(config)[0]),
        dtype_(choose_dtype(config.dtype(), device_)),
        check_stop_(stop_check()) {
    model_.info.model = spec_of(config, train.info());
    model_.info.split = {0, 0};
    model_.info.data = "disguised by " + train.info().method;
    model_.method = train.info().method;
    model_.settings = train.info().settings;
    model_.key_id = train.info().key_id;
    model_.set_id = train.info().set_id;
    model_.marks = train.info().marks;
  }

  void run() {
    const auto start = std::chrono::steady_clock::now();
    Rng rng(config_.seed(), "disguised training");
    model_.net = build_body(model_.info.model, model_.info.split, rng);
    model_.net->to(device_);
    SetRows rows(train_);
    LoaderOptions options;
    options.batch = config_.stage1().batch();
    options.seed = rng.next();
    options.device = device_;
    Loader loader(rows, options);
    NetTraining job;
    job.stage = kStage;
    job.settings = &config_.stage1();
    job.optimizer = optim_spec(*job.settings);
    job.label = "the net";
    job.file = run_.path("stage1/net0.h5");
    job.loss = [&](const Batch& b) {
      return softmax_cross_entropy(model_.net->forward(cast(Var(b.images), dtype_)), b.labels,
                                   cross_entropy_spec(config_.stage1()));
    };
    job.capture = !model_.net->has_host_state();
    if (test_) job.quick_accuracy = [&] { return accuracy(kQuickTest); };
    Progress progress("disguised training",
                      job.settings->epochs() * loader.batches() * options.batch);
    train_net(run_, loader, *model_.net, job, progress);
    progress.finish();
    model_.net->freeze();
    model_.net->train(false);
    write_disguised_model(run_.path("model.h5"), model_);
    results::RunSummary summary = describe();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    (*summary.mutable_seconds())[kStage] = seconds.count();
    results::write(run_.path("summary.json"), summary);
  }

 private:
  double accuracy(int64_t rows) const {
    Plan plan(lower(*model_.net, model_.row()), device_, dtype_, kEvaluationBatch);
    return set_accuracy(plan, *test_, rows, check_stop_);
  }

  results::RunSummary describe() const {
    const DisguisedSetInfo& set = train_.info();
    results::RunSummary summary;
    results::RunSummary::Disguise& disguise = *summary.mutable_disguise();
    disguise.set_method(model_.method);
    disguise.set_disguised_bytes(static_cast<double>(set.shape.numel()) *
                                 static_cast<double>(size_of(set.dtype)));
    disguise.set_insecure_secrets(!model_.marks.empty());
    summary.set_protection("disguise");
    summary.set_data("set " + model_.set_id.substr(0, 6));  // the cloud knows no other name
    summary.set_architecture(model_.info.model.architecture);
    summary.set_width(model_.info.model.width);
    summary.set_dtype(name(dtype_));
    summary.set_train_images(static_cast<int32_t>(set.rows));
    summary.mutable_flops()->set_cloud(
        static_cast<double>(lower(*model_.net, model_.row()).flops()));
    if (test_) {
      summary.set_test_images(static_cast<int32_t>(test_->info().rows));
      summary.set_accuracy(accuracy(test_->info().rows));
      std::vector<double> shares(static_cast<size_t>(set.classes));
      for (const int32_t label : test_->labels()) {
        shares[static_cast<size_t>(label)] += 1 / static_cast<double>(test_->info().rows);
      }
      disguise.set_rarest_class(std::ranges::min(shares));
      disguise.set_commonest_class(std::ranges::max(shares));
      disguise.set_epochs_to_95(epochs_to_95(run_.folder()));
    }
    return summary;
  }

  const RunConfig& config_;
  RunDir& run_;
  const DisguisedSetReader& train_;
  const DisguisedSetReader* const test_;
  const Device device_;
  const Dtype dtype_;
  const std::function<void()> check_stop_;
  DisguisedModel model_;
};

}  // namespace

bool train_disguised(const RunConfig& config, const fs::path& folder, const RunFacts& facts,
                     const DisguisedSetReader& train, const DisguisedSetReader* test) {
  check_split(train.info(), "train", train.file());
  if (test) check_pair(train.info(), test->info());
  const RunConfig own = cloud_config(config, train.info());
  // Before anything is written.
  spec_of(own, train.info());
  if (train.info().rows < own.stage1().batch()) {
    usage_fail(
        fmt::format("{} rows do not fill one batch of {}", train.info().rows, own.stage1().batch()),
        train.file(), "set stage1.batch to fewer");
  }
  const bool done = fs::exists(folder / "DONE");
  RunDir run(folder, to_text(own), facts);
  keep_set(run, train.info().set_id);
  if (done) return false;
  if (config.tensorboard()) run.write_events();
  CloudTraining(own, run, train, test).run();
  run.mark_done();
  return true;
}

}  // namespace ens
