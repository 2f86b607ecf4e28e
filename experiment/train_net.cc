// SPDX-License-Identifier: Apache-2.0
#include "experiment/train_net.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "experiment/setup.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKind = "training";
constexpr const char* kEpochsDone = "epochs_done";

// ---- checkpoints: "net/...", "optim/...", for each companion "NAME/..." and "NAME_optim/...",
// and the epochs done.

void put(Checkpoint& c, const std::string& prefix, const std::vector<NamedTensor>& state) {
  for (const NamedTensor& t : state) c.tensors[prefix + t.name] = t.tensor;
}

std::vector<NamedTensor> with_prefix(const Checkpoint& c, const std::string& prefix) {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : c.tensors) {
    if (name.starts_with(prefix)) list.push_back({name.substr(prefix.size()), tensor});
  }
  return list;
}

void save_state(const NetTraining& job, const Module& net, const Optimizer& optimizer,
                int64_t done) {
  Checkpoint c;
  c.kind = kKind;
  c.numbers[kEpochsDone] = done;
  put(c, "net/", net.state());
  put(c, "optim/", optimizer.state());
  for (const AuxiliaryModel& other : job.auxiliary_models) {
    put(c, other.name + "/", other.net->state());
    put(c, other.name + "_optim/", other.optimizer->state());
  }
  write_checkpoint(job.file, c, /*secret=*/true);
}

// Returns the epochs done.
int64_t load_state(const NetTraining& job, Module& net, Optimizer& optimizer) {
  const Checkpoint c = read_checkpoint(job.file, kKind);
  net.load_state(with_prefix(c, "net/"), c.file);
  optimizer.load_state(with_prefix(c, "optim/"), c.file);
  for (const AuxiliaryModel& other : job.auxiliary_models) {
    other.net->load_state(with_prefix(c, other.name + "/"), c.file);
    other.optimizer->load_state(with_prefix(c, other.name + "_optim/"), c.file);
  }
  return c.number(kEpochsDone);
}

// When a training's state is saved: after an epoch, but so that saving takes no more than a tenth
// of the time. On a GPU an epoch can be shorter than the writing of what it has changed.
class Saving {
 public:
  bool worth_it() const { return Clock::now() - end_ >= 9 * cost_; }
  template <typename F>
  void time(F&& save) {
    const auto begin = Clock::now();
    save();
    end_ = Clock::now();
    cost_ = end_ - begin;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::duration cost_{};  // of the last time
  Clock::time_point end_{};
};

}  // namespace

void save_trained(const Module& net, const NetTraining& job) {
  Checkpoint c;
  c.kind = kKind;
  c.numbers[kEpochsDone] = job.settings->epochs();
  put(c, "net/", net.state());
  write_checkpoint(job.file, c, /*secret=*/true);
}

void load_trained(Module& net, const NetTraining& job) {
  const Checkpoint c = read_checkpoint(job.file, kKind);
  net.load_state(with_prefix(c, "net/"), c.file);
}

int64_t epochs_done(const fs::path& file) {
  return read_checkpoint(file, kKind).number(kEpochsDone);
}

double EpochMean::take() {
  const double mean = sum_ / static_cast<double>(std::max<int64_t>(count_, 1));
  *this = {};
  return mean;
}

void train_net(RunDir& run, BatchSource& loader, Module& net, const NetTraining& job,
               Progress& progress) {
  Optimizer optimizer(net.parameters(), job.optimizer);
  FitOptions options = fit_options(*job.settings, job.label);
  options.capture = job.capture;
  if (fs::exists(job.file)) {
    options.first_epoch = load_state(job, net, optimizer);
    progress.skip(options.first_epoch * loader.batches() * job.settings->batch());
  }
  run.forget_metrics(job.stage, job.index, options.first_epoch);
  const auto metric = [&](int64_t epoch, const std::string& name, double value) {
    run.add_metric({job.stage, job.index, epoch, (epoch + 1) * loader.batches(), name, value});
  };
  Saving saving;
  double recent = 0, last_accuracy = -1;
  int64_t steps = 0;
  const auto all = static_cast<double>(options.epochs * loader.batches());
  int64_t begun = options.first_epoch * loader.batches();
  const auto loss = [&](const Batch& batch) {
    if (job.before_step) job.before_step(static_cast<double>(begun++) / all);
    return job.loss(batch);
  };
  fit(
      options, loader, optimizer, loss,
      [&](int64_t images, double value) {
        recent = steps++ ? 0.98 * recent + 0.02 * value : value;
        progress.add(images);
        if (steps % 8 == 0) {
          std::string text = job.label + fmt::format("  loss {:.3f}", recent);
          if (last_accuracy >= 0) {
            text += fmt::format("  accuracy {:.1f} %", 100 * last_accuracy);
          }
          progress.note(text);
        }
      },
      [&](const EpochStats& stats) {
        metric(stats.epoch, "loss", stats.loss);
        if (job.quick_accuracy) {
          net.train(false);
          last_accuracy = job.quick_accuracy();
          net.train();
          metric(stats.epoch, "accuracy", last_accuracy);
        }
        metric(stats.epoch, "images_per_second",
               static_cast<double>(stats.images) / std::max(stats.seconds, 1e-9));
        metric(stats.epoch, "share_waiting_for_data",
               stats.seconds_waiting / std::max(stats.seconds, 1e-9));
        if (job.epoch_metrics) {
          for (const auto& [name, value] : job.epoch_metrics()) metric(stats.epoch, name, value);
        }
        const bool last = stats.epoch + 1 == options.epochs;
        if (last || saving.worth_it()) {
          saving.time([&] { save_state(job, net, optimizer, stats.epoch + 1); });
        }
      });
}

}  // namespace ens
