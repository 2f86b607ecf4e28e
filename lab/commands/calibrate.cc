// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/flags.h"
#include "base/progress.h"
#include "edge/pipeline.h"
#include "experiment/run_dir.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/core/float8.h"
#include "nn/data/loader.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatch = 256;

struct CalibrateFlags : CalibrationFlags {
  std::string device = "auto";
};

// The server nets in float8: computed by the device if it can, else rounded on the CPU.
class Float8Nets {
 public:
  Float8Nets(const std::vector<Graph>& nets, Device device) {
    if (backend(device).serves(Dtype::kF8)) {
      plan_.emplace(nets, device, Dtype::kF8, kBatch);
    } else {
      for (const Graph& net : nets) fused_.push_back(fuse(net));
    }
  }
  bool rounded() const { return !plan_; }

  Tensor run(const Tensor& features) {  // -> [N, B, ...], as Plan::run_all()
    if (plan_) return plan_->run_all(features);
    const Graph& one = fused_.at(0);
    const Shape output = batched(features.dim(0), one.shape(one.output));
    Tensor all = Tensor::empty(batched(std::ssize(fused_), output));
    for (int64_t i = 0; i < std::ssize(fused_); ++i) {
      const Tensor y = run_float8(fused_[static_cast<size_t>(i)], features);
      all.rows(i, 1).reshape(output).copy_from(y);
    }
    return all;
  }

 private:
  std::optional<Plan> plan_;
  std::vector<Graph> fused_;
};

struct Outcome {
  int64_t images = 0;
  int64_t right = 0;          // in float32
  int64_t lost = 0, won = 0;  // right in float32 only, in float8 only
  int64_t changed = 0;        // to another class, right or wrong
  double percent(int64_t part) const {
    return 100.0 * static_cast<double>(part) / static_cast<double>(images);
  }
};

// Both precisions get the same features: a protection that draws at random draws once.
Outcome compare(EdgePipeline& edge, const Dataset& images, const std::vector<Graph>& nets,
                Device device) {
  Plan exact(nets, device, Dtype::kF32, kBatch);
  Float8Nets narrow(nets, device);
  Progress progress(narrow.rounded() ? "accuracy in float32, and in float8 by rounding"
                                     : "accuracy in float32 and float8",
                    images.count());
  Outcome outcome{.images = images.count()};
  for (int64_t first = 0; first < images.count(); first += kBatch) {
    const int64_t n = std::min(kBatch, images.count() - first);
    const Tensor features = edge.smash(images_of(images, first, n));
    const auto in32 = argmax_rows(edge.finish(exact.run_all(features).to(Device{})));
    const auto in8 = argmax_rows(edge.finish(narrow.run(features).to(Device{})));
    for (size_t i = 0; i < in32.size(); ++i) {
      const int32_t label = images.labels[static_cast<size_t>(first) + i];
      outcome.right += in32[i] == label;
      outcome.changed += in32[i] != in8[i];
      outcome.lost += in32[i] == label && in8[i] != label;
      outcome.won += in32[i] != label && in8[i] == label;
    }
    progress.add(n);
  }
  return outcome;
}

void calibrate(const CalibrateFlags& flags) {
  const fs::path run = flags.run, file = run / "cloud.h5";
  const RunConfig config = flags.read_config("calibrate", "");
  const Device device = parse_device(flags.device);
  backend(device).allow_tf32(false);  // float32 is the yardstick
  CloudBundle cloud = read_cloud_bundle(file);
  EdgePipeline edge(read_edge_bundle(run / "edge.h5"), kBatch);
  if (edge.info().fingerprint != cloud.info.fingerprint) {
    fail("edge.h5 and cloud.h5 come from different trainings", flags.run);
  }

  const Dataset train = draw_images(config, DataPart::kTrain, flags.images);
  check_classes(train, edge.class_names(), flags.run);
  const Tensor features = edge.smash(images_of(train, 0, train.count())).to(device);
  const Shape sent = smashed_shape(cloud.info.model, cloud.info.split);
  Progress progress("activation ranges", train.count() * std::ssize(cloud.bodies));
  std::vector<Graph> nets;
  cloud.ranges.clear();
  for (const auto& body : cloud.bodies) {
    nets.push_back(lower(*body, sent));
    cloud.ranges.push_back(input_ranges(nets.back(), features));
    set_input_ranges(nets.back(), cloud.ranges.back());
    progress.add(train.count());
  }
  progress.finish();

  const Dataset test = draw_images(config, DataPart::kTest, flags.test);
  const Outcome o = compare(edge, test, nets, device);
  const double loss = o.percent(o.lost - o.won);
  fmt::print("{} of {} layers in float8, with the ranges of {} training images\n",
             std::ranges::count_if(nets[0].steps, takes_float8), cloud.ranges[0].size(),
             train.count());
  fmt::print("float32  {:.2f} % of {} test images\nfloat8   {:.2f} %, {:.2f} points {}\n",
             o.percent(o.right), o.images, o.percent(o.right - o.lost + o.won), std::abs(loss),
             loss < 0 ? "more" : "less");
  fmt::print("{} predictions change: {} from right to wrong, {} from wrong to right\n", o.changed,
             o.lost, o.won);
  std::fflush(stdout);
  if (!(loss <= flags.most_loss)) {
    fail(fmt::format("float8 costs {:.2f} points of accuracy, more than {:g}", loss,
                     flags.most_loss),
         file.string(), "left as it was; serve it in float16, or allow more with --most-loss");
  }
  write_cloud_bundle(file, cloud);
  fmt::print(stderr, "{}: calibrated; edges need no new bundle\nnext: {}\n", file.string(),
             command_to_paste({"ensembler-cloud", "--bundle", file, "--set", "dtype=float8"}));
}

}  // namespace

void add_calibrate_command(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  flags->most_loss = 0.2;
  CLI::App* command = app.add_subcommand(
      "calibrate", "Calibrate a run's cloud.h5 for float8, unless that costs too much accuracy");
  flags->add_to(*command);
  command
      ->add_option("--device", flags->device,
                   "auto, cpu, cuda or cuda:1; a device without float8: rounding on the CPU")
      ->capture_default_str();
  command->callback([flags] { calibrate(*flags); });
}

}  // namespace ens
