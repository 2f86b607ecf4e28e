#include "ensemble/train/trainer.h"

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "ensemble/model/edge_bundle.h"
#include "ensemble/train/nets.h"
#include "ensemble/train/progress.h"
#include "ensemble/train/setup.h"
#include "nn/core/backend.h"
#include "nn/core/error.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kQuickTest = 2000;  // test images looked at after each epoch

// ---- checkpoints of a training under way: "net/...", "optim/..." and the epochs done.

void save_state(const fs::path& file, const Module& net, const Optimizer* optimizer,
                int64_t epochs_done) {
  Checkpoint c;
  c.kind = "training";
  c.numbers["epochs_done"] = epochs_done;
  for (const NamedTensor& t : net.state()) c.tensors["net/" + t.name] = t.tensor;
  if (optimizer) {
    for (const NamedTensor& t : optimizer->state()) c.tensors["optim/" + t.name] = t.tensor;
  }
  write_checkpoint(file, c, /*secret=*/true);
}

std::vector<NamedTensor> with_prefix(const Checkpoint& c, const std::string& prefix) {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : c.tensors) {
    if (name.starts_with(prefix)) list.push_back({name.substr(prefix.size()), tensor});
  }
  return list;
}

// Returns the epochs done.
int64_t load_state(const fs::path& file, Module& net, Optimizer* optimizer) {
  const Checkpoint c = read_checkpoint(file, "training");
  net.load_state(with_prefix(c, "net/"), file.string());
  if (optimizer) optimizer->load_state(with_prefix(c, "optim/"), file.string());
  return c.number("epochs_done");
}

LoaderOptions loader_options(const RunConfig& config, const TrainConfig& stage, uint64_t seed) {
  LoaderOptions options;
  options.batch = stage.batch();
  options.crop_padding = config.data().crop_padding();
  options.flip = config.data().flip();
  options.seed = seed;
  return options;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Trainer {  // one training: shared state of both stages
 public:
  Trainer(const RunConfig& config, RunDir& run, const Dataset& train, const Dataset& test)
      : config_(config),
        run_(run),
        train_(train),
        test_(test),
        quick_test_(test.head(kQuickTest)),
        spec_(model_spec(config, train)),
        split_(split_of(config)),
        device_(parse_device(config.device())),
        dtype_(choose_dtype(config.dtype(), device_)) {
    check(spec_, split_);
  }

  void run() {
    const int nets = config_.ensemble().nets();
    const auto start1 = std::chrono::steady_clock::now();
    train_stage1();
    const double seconds1 = seconds_since(start1);
    const auto start2 = std::chrono::steady_clock::now();
    if (nets == 1) {
      SingleNet& net = *nets_[0];
      write_bundles(net.head(), net.tail(), net.noise(), Selector(1, {0}));
      summary_["accuracy"] = summary_["net_accuracy"][0];
      summary_["similarity"] = nullptr;
    } else {
      train_stage2();
    }
    summary_["seconds"] = {{"stage1", seconds1}, {"stage2", seconds_since(start2)}};
    describe();
    run_.write_json("summary.json", summary_.dump(2) + "\n");
  }

 private:
  Var input(const Batch& batch) const { return cast(Var(batch.images.to(device_)), dtype_); }

  // Trains `net` to the end of its epochs, from `file` if it is there; leaves `file` complete.
  void train_net(Module& net, const std::string& stage_name, int index, const TrainConfig& stage,
                 const std::string& label, const fs::path& file, uint64_t data_seed,
                 Progress& progress, const std::function<Var(const Batch&)>& loss,
                 const std::function<double()>& quick_accuracy,
                 const std::function<void(int64_t epoch)>& after_epoch) {
    Optimizer optimizer(net.parameters(), optim_spec(stage));
    FitOptions options = fit_options(stage, label);
    Loader loader(train_, loader_options(config_, stage, data_seed));
    const int64_t per_epoch = loader.batches() * stage.batch();
    if (fs::exists(file)) {
      options.first_epoch = load_state(file, net, &optimizer);
      progress.skip(options.first_epoch * per_epoch);
    }
    run_.forget_metrics(stage_name, index, options.first_epoch);
    auto metric = [&](int64_t epoch, const char* name, double value) {
      run_.add_metric({stage_name, index, epoch, (epoch + 1) * loader.batches(), name, value});
    };
    double recent = 0, last_accuracy = -1;
    int64_t steps = 0;
    fit(
        options, loader, optimizer, loss,
        [&](int64_t images, double value) {
          recent = steps++ ? 0.98 * recent + 0.02 * value : value;
          progress.add(images);
          if (steps % 8 == 0) {
            std::string text = label + "  loss " + std::to_string(recent).substr(0, 5);
            if (last_accuracy >= 0) {
              text += "  accuracy " + std::to_string(100 * last_accuracy).substr(0, 4) + " %";
            }
            progress.note(text);
          }
        },
        [&](const EpochStats& stats) {
          net.train(false);
          last_accuracy = quick_accuracy();
          net.train();
          metric(stats.epoch, "loss", stats.loss);
          metric(stats.epoch, "accuracy", last_accuracy);
          metric(stats.epoch, "images_per_second",
                 static_cast<double>(stats.images) / std::max(stats.seconds, 1e-9));
          metric(stats.epoch, "share_waiting_for_data",
                 stats.seconds_waiting / std::max(stats.seconds, 1e-9));
          if (after_epoch) after_epoch(stats.epoch);
          save_state(file, net, &optimizer, stats.epoch + 1);
        });
  }

  // ---- stage 1

  Tensor draw_noise(Rng& rng) const {
    Tensor noise = Tensor::zeros(smashed_shape(spec_, split_));
    const double sigma = config_.ensemble().sigma();
    if (sigma > 0) rng.fill_normal(noise.span<float>(), 0, static_cast<float>(sigma));
    return noise;
  }

  double net_accuracy(const SingleNet& net, const Dataset& data) const {
    return plan_accuracy(*net.head(), net.noise(), {net.body()}, *net.tail(), spec_, split_, data,
                         device_, dtype_);
  }

  void train_stage1() {
    const int count = config_.ensemble().nets();
    const TrainConfig& stage = config_.stage1();
    nets_.resize(static_cast<size_t>(count));
    std::vector<double> accuracies(static_cast<size_t>(count));
    const int64_t steps = train_.count() / stage.batch();
    Progress progress("stage 1: " + std::to_string(count) + (count == 1 ? " net" : " nets"),
                      int64_t{count} * stage.epochs() * steps * stage.batch());
    run_side_by_side(count, stage.side_by_side(), [&](int i) {
      Rng rng(config_.seed(), "stage1/net" + std::to_string(i));
      auto net = std::make_shared<SingleNet>(spec_, split_, draw_noise(rng), rng);
      const fs::path file = run_.path("stage1/net" + std::to_string(i) + ".h5");
      train_net(
          *net, "stage1", i, stage, "net " + std::to_string(i), file, rng.next(), progress,
          [&](const Batch& b) {
            return softmax_cross_entropy(net->forward(input(b)), b.labels.to(device_));
          },
          [&] { return net_accuracy(*net, quick_test_); }, nullptr);
      net->freeze();
      accuracies[static_cast<size_t>(i)] = net_accuracy(*net, test_);
      nets_[static_cast<size_t>(i)] = net;
    });
    progress.finish();
    summary_["net_accuracy"] = accuracies;
  }

  // ---- stage 2

  // The selector and the noise are drawn once and kept beside the checkpoint, so that a resumed
  // training continues with the same secrets.
  Selector draw_secrets(Tensor& noise) {
    const EnsembleConfig& e = config_.ensemble();
    const fs::path file = run_.path("stage2/secrets.h5");
    if (fs::exists(file)) {
      const Checkpoint c = read_checkpoint(file, "secrets");
      noise = c.tensor("noise");
      std::vector<int> selected;
      for (float index : c.tensor("selected").to_vector())
        selected.push_back(static_cast<int>(index));
      return Selector(e.nets(), selected);
    }
    const bool seeded = e.insecure_seeded_secrets();
    Rng rng = seeded ? Rng(config_.seed(), "stage2/noise") : Rng(secure_random(), secure_random());
    noise = draw_noise(rng);
    Selector selector = seeded ? Selector::seeded(e.nets(), e.selected(), config_.seed())
                               : Selector::draw(e.nets(), e.selected());
    Checkpoint c;
    c.kind = "secrets";
    c.tensors["noise"] = noise;
    const std::vector<float> list(selector.selected().begin(), selector.selected().end());
    c.tensors["selected"] = Tensor::from(list, {selector.count()});
    write_checkpoint(file, c, /*secret=*/true);
    return selector;
  }

  void train_stage2() {
    const TrainConfig& stage = config_.stage2();
    Tensor noise;
    const Selector selector = draw_secrets(noise);
    std::vector<std::shared_ptr<Sequential>> bodies, heads;
    for (int i : selector.selected()) {
      bodies.push_back(nets_[static_cast<size_t>(i)]->body());
      heads.push_back(nets_[static_cast<size_t>(i)]->head());
    }
    Rng rng(config_.seed(), "stage2");
    EnsembleNet net(spec_, split_, noise, bodies, rng);
    const float lambda = static_cast<float>(config_.ensemble().lambda());
    double similarity = 0;
    int64_t similar_steps = 0;
    const int64_t steps = train_.count() / stage.batch();
    Progress progress("stage 2: head and tail", stage.epochs() * steps * stage.batch());
    const auto ensemble_accuracy = [&](const Dataset& data) {
      return plan_accuracy(*net.head(), net.noise(), bodies, *net.tail(), spec_, split_, data,
                           device_, dtype_);
    };
    train_net(
        net, "stage2", -1, stage, "ensemble", run_.path("stage2/ensemble.h5"), rng.next(), progress,
        [&](const Batch& b) {
          const Var x = input(b);
          Var clean;
          Var total = softmax_cross_entropy(net.forward(x, clean), b.labels.to(device_));
          std::vector<Var> similarities;
          for (const auto& head : heads) {
            similarities.push_back(mean(cosine_similarity(clean, head->forward(x))));
          }
          const Var worst = maximum(similarities);
          similarity += worst.item();
          ++similar_steps;
          return lambda > 0 ? add(total, affine(worst, lambda, 0)) : total;
        },
        [&] { return ensemble_accuracy(quick_test_); },
        [&](int64_t epoch) {
          run_.add_metric({"stage2", -1, epoch, (epoch + 1) * steps, "similarity",
                           similarity / static_cast<double>(std::max<int64_t>(similar_steps, 1))});
          similarity = 0;
          similar_steps = 0;
        });
    progress.finish();
    net.freeze();
    summary_["accuracy"] = ensemble_accuracy(test_);
    summary_["similarity"] = reached_similarity(*net.head(), heads);
    write_bundles(net.head(), net.tail(), net.noise(), selector);
  }

  // max over the selected heads of the mean cosine similarity, on test images, without noise.
  double reached_similarity(Sequential& head,
                            const std::vector<std::shared_ptr<Sequential>>& heads) {
    NoGrad no_grad;
    constexpr int64_t kBatch = 250;
    std::vector<double> sums(heads.size());
    const Dataset& data = quick_test_;
    for (int64_t first = 0; first < data.count(); first += kBatch) {
      const int64_t n = std::min(kBatch, data.count() - first);
      const Var x(images_of(data, first, n).to(device_));
      const Var own = head.forward(x);
      for (size_t i = 0; i < heads.size(); ++i) {
        sums[i] += sum(cosine_similarity(own, heads[i]->forward(x))).item();
      }
    }
    return *std::ranges::max_element(sums) /
           static_cast<double>(std::max<int64_t>(data.count(), 1));
  }

  // ---- results

  BundleInfo bundle_info() const {
    BundleInfo info;
    info.model = spec_;
    info.split = split_;
    info.nets = config_.ensemble().nets();
    info.data = train_.name;
    return info;
  }

  void write_bundles(const std::shared_ptr<Sequential>& head,
                     const std::shared_ptr<Sequential>& tail, const Tensor& noise,
                     const Selector& selector) {
    CloudBundle cloud;
    cloud.info = bundle_info();
    for (const auto& net : nets_) cloud.bodies.push_back(net->body());
    write_cloud_bundle(run_.path("cloud.h5"), cloud);
    EdgeBundle edge{cloud.info, train_.class_names, head, tail, selector, noise};
    write_edge_bundle(run_.path("edge.h5"), edge);
  }

  void describe() {
    const EnsembleConfig& e = config_.ensemble();
    const int copies = e.nets() == 1 ? 1 : e.selected();
    const SplitCost cost = split_cost(spec_, split_, copies);
    summary_["protection"] = config_.protection().kind();
    summary_["nets"] = e.nets();
    summary_["selected"] = copies;
    summary_["sigma"] = e.sigma();
    summary_["lambda"] = e.lambda();
    summary_["architecture"] = spec_.architecture;
    summary_["width"] = spec_.width;
    summary_["dtype"] = name(dtype_);
    summary_["split"] = {{"head", split_.head}, {"tail", split_.tail}};
    summary_["data"] = train_.name;
    summary_["train_images"] = train_.count();
    summary_["test_images"] = test_.count();
    summary_["flops"] = {{"edge", cost.edge_flops}, {"cloud", cost.body_flops * e.nets()}};
    summary_["bytes"] = {{"up", cost.sent.numel() * 4},
                         {"down", cost.answer.numel() * 4 * e.nets()}};
  }

  const RunConfig& config_;
  RunDir& run_;
  const Dataset& train_;
  const Dataset& test_;
  const Dataset quick_test_;
  const ModelSpec spec_;
  const Split split_;
  const Device device_;
  const Dtype dtype_;
  std::vector<std::shared_ptr<SingleNet>> nets_;
  nlohmann::json summary_;
};

}  // namespace

void train_ensemble(const RunConfig& config, RunDir& run, const Dataset& train,
                    const Dataset& test) {
  Trainer(config, run, train, test).run();
}

}  // namespace ens
