// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/split_attacks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "attacks/core/evaluator.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/files.h"
#include "base/notice.h"
#include "base/progress.h"
#include "base/strings.h"
#include "edge/pipeline.h"
#include "ensemble/model/precision.h"
#include "ensemble/protect/feature_train.h"
#include "experiment/run_dir.h"
#include "experiment/setup.h"
#include "lab/datasets.h"
#include "lab/references.h"
#include "lab/results.h"
#include "lab/scores.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// How a run is attacked: as it was trained, but for what `wanted` says of where to compute.
struct Attacked {
  RunConfig config;
  std::string dtype_override;  // the dtype, if it is not the run's own

  Attacked(const fs::path& folder, RunConfig wanted) {
    config = read_run_config(folder);
    if (wanted.has_device()) config.set_device(wanted.device());
    if (wanted.has_dtype() && wanted.dtype() != config.dtype()) {
      config.set_dtype(wanted.dtype());
      dtype_override += "dtype: " + wanted.dtype() + "\n";
    }
    if (wanted.has_tf32() && wanted.tf32() != config.tf32()) {
      config.set_tf32(wanted.tf32());
      dtype_override += wanted.tf32() ? "tf32: true\n" : "tf32: false\n";
    }
    if (!wanted.data().root().empty()) config.mutable_data()->set_root(wanted.data().root());
    complete(wanted);
    config.set_tensorboard(wanted.tensorboard());
    *config.mutable_attack() = wanted.attack();
    if (config.attack().seed() == config.seed()) config.mutable_attack()->set_seed(0);
  }

  uint64_t seed() const { return first_attack_seed(config); }
  // What the attack's folder and title have after its name.
  std::string folder_suffix() const {
    return config.attack().seed() > 0 ? fmt::format("-seed{}", seed()) : "";
  }
  std::string title_suffix() const {
    return config.attack().seed() > 0 ? fmt::format(", seed {}", seed()) : "";
  }

  // What makes two results of one attack on one run differ; where it was computed, and what else
  // is kept of it, does not.
  std::string identity(bool on_the_wire) const {
    AttackConfig settings = config.attack();
    settings.set_keep_images(false);
    return to_text(settings) + (on_the_wire ? "observed: wire\n" : "observed: edge\n") +
           dtype_override;
  }
};

// What Attacked::identity() wrote into a result, perhaps in a version with other names.
std::string renamed_settings(const std::string& identity) {
  const size_t end = identity.find("observed: ");
  RunConfig config;
  parse_config(identity.substr(0, end), "settings", *config.mutable_attack());
  // Before the setting, public images were the client's training images.
  if (!config.attack().has_public_source()) config.mutable_attack()->set_public_source("training");
  complete(config);
  return to_text(config.attack()) + identity.substr(end);
}

fs::path result_file(const fs::path& folder, const std::string& attack, const Attacked& how) {
  return folder / "attack" / (attack + how.folder_suffix()) / "result.json";
}

}  // namespace

struct AttackTarget::Impl {
  Impl(const fs::path& folder_, const RunConfig& wanted)
      : folder(folder_),
        attacked(folder, wanted),
        device(devices_for(config)[0]),
        dtype(choose_dtype(config.dtype(), device)) {
    cloud = read_cloud_bundle(folder / "cloud.h5");
    EdgeBundle bundle = read_edge_bundle(folder / "edge.h5");
    head = bundle.head;
    protect = mean_protection(bundle.protection);
    draws = draws_anew(bundle.protection);
    const std::vector<std::string> classes = bundle.class_names;
    selected = bundle.selector.selected();
    channel = channel_map(bundle.protection);
    constexpr int kMaxBatch = 32;
    fresh = std::make_unique<EdgePipeline>(bundle, kMaxBatch);
    if (fresh->channel() && fresh->channel()->keyed) {
      device_edge = std::make_unique<EdgePipeline>(std::move(bundle), kMaxBatch, secure_seed());
    }
    head->to(device);
    for (const auto& body : cloud.bodies) body->to(device);

    const auto test = shared_dataset(config, DataPart::kTest);
    check_classes(*test, classes, folder.string());
    roles = divide_images(*public_pool(config, folder.string()), *test, settings, attacked.seed());
    truth = images_of(roles.scored, 0, roles.scored.count());
  }

  // As the client's device sends them.
  Tensor smash(const Tensor& images) {
    std::lock_guard lock(edge_mutex);
    return (device_edge ? device_edge : fresh)->smash(images);
  }
  Tensor smash_anew(const Tensor& images) {
    std::lock_guard lock(edge_mutex);
    return fresh->smash(images);
  }
  Tensor smash_in_the_mean(const Tensor& images) {
    const NoGrad no_grad;
    return channel(head->forward(Var(images.to(device))), nullptr).value().to(Device{}).plain();
  }

  // What the server keeps of the client's traffic: at most 1 GiB of features.
  const Tensor& seen_traffic() {
    std::lock_guard lock(traffic_mutex);
    if (traffic.defined()) return traffic;
    constexpr int64_t kBatch = 128, kMost = int64_t{1} << 30;
    const Shape one = smashed_shape(cloud.info.model, cloud.info.split);
    const int64_t count = std::min(roles.traffic.count(), kMost / (one.numel() * 4));
    Tensor all = Tensor::empty(batched(count, one));
    for (int64_t first = 0; first < count; first += kBatch) {
      const int64_t n = std::min(kBatch, count - first);
      all.rows(first, n).copy_from(smash(images_of(roles.traffic, first, n)));
    }
    traffic = all;
    return traffic;
  }

  // Of the client and set aside: what queries without a limit can be about.
  const Dataset& all_training_images() {
    std::lock_guard lock(training_mutex);
    if (!training) training = shared_dataset(config, DataPart::kTrainAndPublic);
    return *training;
  }

  // The best of the attacks that do not look at what the client sent: computed once.
  const results::AttackResult::Floor& floor(const Evaluator& evaluator) {
    std::lock_guard lock(floor_mutex);
    if (best_floor.has_attack()) return best_floor;
    AttackContext context;
    context.settings = settings;
    for (const std::string& name : attack_names()) {
      const auto attack = make_attack(name);
      if (attack->level() != KnowledgeLevel::kBlind) continue;
      const AttackScore score = evaluator.evaluate(
          *attack, config.seed(), [&] { return attack->run(victim(Tensor()), context); });
      if (score.scores.ssim.mean <= best_floor.ssim().mean() && best_floor.has_attack()) continue;
      fill(&best_floor, score);
    }
    return best_floor;
  }

  SplitSetting setting() {
    return {cloud.info.model,
            cloud.info.split,
            static_cast<int>(cloud.bodies.size()),
            static_cast<int>(selected.size()),
            roles.public_data.count(),
            roles.scored.count(),
            settings.tier() == "full" ? all_training_images().count() : 0,
            draws};
  }

  SplitVictim victim(const Tensor& observed) {
    SplitVictim v;
    v.model = cloud.info.model;
    v.split = cloud.info.split;
    v.bodies = cloud.bodies;
    v.observed = observed.defined() ? observed : smash(truth);
    v.public_data = &roles.public_data;
    v.training_data = [this] { return &all_training_images(); };
    v.send = [this](const Tensor& images) { return smash_anew(images); };
    v.send_from_device = [this](const Tensor& images) { return smash(images); };
    if (channel) v.send_mean = [this](const Tensor& images) { return smash_in_the_mean(images); };
    v.channel = channel;
    v.traffic = [this] { return seen_traffic(); };
    v.labels = roles.scored.labels;
    v.nearest = [this] { return nearest_images(roles.scored, roles.public_data); };
    v.resend = [this](const auto& change) { return smash(change(truth)); };
    v.subset = selected;
    v.head = head;
    v.protect = protect;
    return v;
  }

  const fs::path folder;
  const Attacked attacked;
  const RunConfig& config = attacked.config;
  const AttackConfig& settings = config.attack();
  const Device device;
  const Dtype dtype;
  CloudBundle cloud;
  // With noise of its own for each send; and with a device's key, if the bundle wants one.
  std::unique_ptr<EdgePipeline> fresh, device_edge;
  std::mutex edge_mutex;  // a pipeline serves one thread at a time
  std::shared_ptr<Sequential> head;
  std::function<Var(const Var&)> protect;
  ChannelMap channel;
  bool draws = false;  // whether two sends of one image differ
  std::vector<int> selected;
  std::mutex training_mutex;
  std::shared_ptr<const Dataset> training;
  ImageRoles roles;
  Tensor truth;  // the scored images
  std::mutex traffic_mutex;
  Tensor traffic;  // computed when the first attack wants it
  std::mutex floor_mutex;
  results::AttackResult::Floor best_floor;
};

AttackTarget::AttackTarget(const fs::path& folder, const RunConfig& wanted)
    : impl_(std::make_unique<Impl>(folder, wanted)) {}
AttackTarget::~AttackTarget() = default;

Device AttackTarget::device() const { return impl_->device; }

int64_t AttackTarget::images(const std::string& attack) const {
  const auto made = make_attack(attack);
  const SplitSetting setting = impl_->setting();
  return made->not_applicable_reason(setting).empty()
             ? made->cost(setting, impl_->settings).images() * seeds_of(*made, impl_->settings)
             : 0;
}

void AttackTarget::run(const std::string& name_of_attack, const Tensor& observed,
                       double cost_per_image, TaskContext& task) {
  const auto attack = make_attack(name_of_attack);
  AttackContext context;
  context.settings = impl_->settings;
  context.device = impl_->device;
  context.dtype = impl_->dtype;
  context.on_progress = [&](int64_t images, const std::string& note) {
    const bool named = note.starts_with(name_of_attack);
    task.report(static_cast<double>(images) * cost_per_image,
                named ? note : name_of_attack + ", " + note);
  };
  const fs::path file = result_file(impl_->folder, attack->name(), impl_->attacked);
  fs::create_directories(file.parent_path());
  results::AttackResult result;
  std::string failure;
  bool scored = false;
  if (const std::string reason = attack->not_applicable_reason(impl_->setting()); !reason.empty()) {
    result.set_pointless(reason);
  } else {
    try {
      Evaluator evaluator(impl_->truth, metric_mode(impl_->settings));
      const auto floor = impl_->floor(evaluator);
      const int64_t wanted = impl_->settings.reference_images();
      int64_t seen = 0;
      const auto learns = [&](int64_t images) {
        seen += images;
        context.on_progress(
            0, fmt::format("training the reference classifier, {} of {} images", seen, wanted));
      };
      evaluator.set_reference_classifier(shared_reference(impl_->config, learns),
                                         impl_->roles.scored.labels);
      const uint64_t first_seed = impl_->attacked.seed();
      const SplitVictim victim = impl_->victim(observed);
      std::vector<AttackScore> by_seed;
      for (int i = 0; i < seeds_of(*attack, impl_->settings); ++i) {
        context.seed = first_seed + static_cast<uint64_t>(i);
        by_seed.push_back(
            evaluator.evaluate(*attack, first_seed, [&] { return attack->run(victim, context); }));
      }
      result = write_scores(file.parent_path(), by_seed, first_seed, impl_->roles, impl_->truth,
                            impl_->settings.keep_images());
      if (attack->level() != KnowledgeLevel::kBlind) *result.mutable_floor() = floor;
      scored = true;
    } catch (const Stopped&) {
      throw;
    } catch (const std::exception& e) {
      failure = e.what();
      result.set_error(failure);
    }
  }
  // What is left of an earlier result is none of this one's.
  if (!scored) fs::remove(file.parent_path() / kScoresFile);
  if (!scored || !impl_->settings.keep_images()) fs::remove(file.parent_path() / kImagesFile);
  result.set_attack(attack->name());
  result.set_title(attack->title() + impl_->attacked.title_suffix());
  result.set_level(name(attack->level()));
  result.set_metric(impl_->settings.metric());
  result.set_tier(impl_->settings.tier());
  result.set_settings(impl_->attacked.identity(observed.defined()));
  result.set_device(backend(device()).description());
  result.set_dtype(name(impl_->dtype));
  result.set_observed(observed.defined() ? "recorded on the wire" : "computed by the edge");
  results::write(file, result);
  if (scored && impl_->config.tensorboard()) {
    write_events(impl_->folder / "tensorboard/attack" / file.parent_path().filename(), result,
                 file.parent_path());
  }
  if (!failure.empty()) fail(failure);
}

// A result without a tier is of the weaker decoders of version 0.1.
bool attack_done(const fs::path& folder, const std::string& attack, const RunConfig& wanted,
                 bool on_the_wire) {
  try {
    const Attacked how(folder, wanted);
    results::AttackResult before;
    const fs::path file = result_file(folder, attack, how);
    const bool images =
        !how.config.attack().keep_images() || fs::exists(file.parent_path() / kImagesFile);
    return results::read_if_intact(file, before) && !before.has_error() && before.has_tier() &&
           (images || before.has_pointless()) &&
           renamed_settings(before.settings()) == how.identity(on_the_wire);
  } catch (const std::exception&) {  // a damaged run or result: the attack will say so
    return false;
  }
}

int run_attacks(const std::vector<AttackJob>& jobs, const RunConfig& wanted, bool again,
                std::stop_token stop) {
  std::map<fs::path, std::unique_ptr<AttackTarget>> targets;
  std::vector<Task> tasks;
  ExecutorOptions options;
  options.stop = stop;
  int64_t images = 0;  // of all of them
  for (const AttackJob& job : jobs) {
    const std::string id = (job.folder / "attack" / job.attack).string();
    if (std::ranges::count(tasks, id, &Task::id) > 0) continue;  // named twice
    if (!again && attack_done(job.folder, job.attack, wanted, job.observed.defined())) {
      notice(id + ": done already");
      continue;
    }
    std::unique_ptr<AttackTarget>& target = targets[job.folder];
    if (!target) target = std::make_unique<AttackTarget>(job.folder, wanted);
    const int64_t cost = target->images(job.attack);
    images += cost;
    Task task;
    task.id = id;
    task.cost = static_cast<double>(cost);
    task.device = target->device();
    // All at once on a GPU, which is not full with one for each processor.
    if (task.device.type != Device::Type::kCpu) options.jobs = static_cast<int>(jobs.size());
    task.run = [&](TaskContext& context) { target->run(job.attack, job.observed, 1, context); };
    tasks.push_back(task);
  }
  if (tasks.empty()) return 0;
  Progress progress(fmt::format("{} attack{}", tasks.size(), tasks.size() == 1 ? "" : "s"), images);
  options.on_report = [&](const Task& task, double cost, const std::string& note) {
    progress.add(static_cast<int64_t>(cost));
    if (note.empty()) return;
    const fs::path run = fs::path(task.id).parent_path().parent_path();
    progress.note(targets.size() > 1 ? run.filename().string() + ": " + note : note);
  };
  const std::vector<TaskStatus> statuses = run_tasks(tasks, options);
  const auto count = [&](TaskState state) {
    return static_cast<int>(std::ranges::count(statuses, state, &TaskStatus::state));
  };
  if (count(TaskState::kStopped) + count(TaskState::kWaiting) > 0) throw Stopped();
  return count(TaskState::kFailed);
}

}  // namespace ens
