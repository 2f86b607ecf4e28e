// SPDX-License-Identifier: Apache-2.0
// ensembler offload: an int8 network for blinded inference, from an unprotected run; and what its
// workers learn.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/flags.h"
#include "base/progress.h"
#include "edge/pipeline.h"
#include "ensemble/model/blinded_bundle.h"
#include "ensemble/model/edge_bundle.h"
#include "experiment/run_dir.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "lab/results.h"
#include "lab/scenarios/blinded.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "proto/config.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kImagesAtOnce = 256;

struct PackFlags : CalibrationFlags {
  std::vector<std::string> overrides;
  std::string out;
};

CloudBundle cloud_of(const fs::path& run, const EdgeBundle& edge) {
  CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  if (edge.info.fingerprint != cloud.info.fingerprint) {
    fail("edge.h5 and cloud.h5 come from different trainings", run.string());
  }
  return cloud;
}

// Head, body and tail of an unprotected run as one graph.
Graph whole_net(const fs::path& run, BlindedBundle& bundle) {
  const EdgeBundle edge = read_edge_bundle(run / "edge.h5");
  const CloudBundle cloud = cloud_of(run, edge);
  if (cloud.info.nets != 1 || !edge.protection.empty()) {
    usage_fail("a whole network is blinded without a protection of its features", run.string(),
               "train one: ensembler train --set protection.kind=none --out DIR; or blind this "
               "run's head alone: --set offload.cells=1");
  }
  bundle.info = edge.info;
  bundle.class_names = edge.class_names;
  Graph graph;
  graph.input = graph.add_value(edge.info.model.input_shape());
  graph.output = edge.head->lower(graph, graph.input);
  for (const auto& part : {cloud.bodies[0], edge.tail})
    graph.output = part->lower(graph, graph.output);
  return graph;
}

// Images to logits.
using Net = std::function<Tensor(const Tensor&)>;

// Prints both accuracies; Error if int8 costs more than is allowed.
void compare(const Dataset& test, const Net& exact, const Net& int8, const PackFlags& flags) {
  Progress progress("accuracy in float32 and int8", test.count());
  int64_t right = 0, right_int8 = 0, changed = 0;
  for (int64_t first = 0; first < test.count(); first += kImagesAtOnce) {
    const Tensor images = images_of(test, first, std::min(kImagesAtOnce, test.count() - first));
    const auto in32 = argmax_rows(exact(images)), in8 = argmax_rows(int8(images));
    for (size_t i = 0; i < in32.size(); ++i) {
      const int32_t label = test.labels[static_cast<size_t>(first) + i];
      right += in32[i] == label;
      right_int8 += in8[i] == label;
      changed += in32[i] != in8[i];
    }
    progress.add(images.dim(0));
  }
  progress.finish();
  const auto percent = [&](int64_t n) {
    return 100.0 * static_cast<double>(n) / static_cast<double>(test.count());
  };
  const double loss = percent(right) - percent(right_int8);
  fmt::print(
      "float32  {:.2f} % of {} test images\nint8     {:.2f} %, {:.2f} points {}; {} predictions "
      "change\n",
      percent(right), test.count(), percent(right_int8), std::abs(loss), loss < 0 ? "more" : "less",
      changed);
  std::fflush(stdout);
  if (!(loss <= flags.most_loss)) {
    fail(fmt::format("int8 costs {:.2f} points of accuracy, more than {:g}", loss, flags.most_loss),
         flags.run, "calibrate with more --images, or allow more with --most-loss");
  }
}

// Layers that read one value are one round.
void say_next(const fs::path& file, size_t rounds) {
  fmt::print(stderr,
             "{}: an int8 network of {} rounds\nnext, on machines of different owners: {}\n",
             file.string(), rounds,
             command_to_paste({"ensembler-worker", "--bind", "tcp://127.0.0.1:5756"}));
}

void pack_whole(const PackFlags& flags, const RunConfig& config) {
  const fs::path run = flags.run;
  const fs::path file = flags.out.empty() ? run / "blinded.h5" : fs::path(flags.out);
  BlindedBundle bundle;
  const Graph graph = whole_net(run, bundle);
  const Dataset train = draw_images(config, DataPart::kTrain, flags.images);
  check_classes(train, bundle.class_names, flags.run);
  Graph fused = fuse(graph);
  set_input_ranges(fused, input_ranges(fused, images_of(train, 0, train.count())));
  bundle.net = quantize(fused);
  Plan exact(graph, Device{}, Dtype::kF32, kImagesAtOnce);
  compare(
      draw_images(config, DataPart::kTest, flags.test),
      [&](const Tensor& images) { return exact.run(images); },
      [&](const Tensor& images) { return run_int8(bundle.net, images); }, flags);
  write_blinded_bundle(file, bundle);
  say_next(file, bundle.net.groups.size());
}

// The first cells of a head; the rest stays split inference, under the run's protection.
void pack_cells(const PackFlags& flags, const RunConfig& config) {
  const fs::path run = flags.run;
  const fs::path file = flags.out.empty() ? run / "edge-blinded.h5" : fs::path(flags.out);
  const EdgeBundle edge = read_edge_bundle(run / "edge.h5");
  const CloudBundle cloud = cloud_of(run, edge);
  const Dataset train = draw_images(config, DataPart::kTrain, flags.images);
  check_classes(train, edge.class_names, flags.run);
  EdgeBundle bundle = edge;
  blind_cells(bundle, config.offload().cells(), images_of(train, 0, train.count()));
  std::vector<Graph> nets;
  for (const auto& body : cloud.bodies)
    nets.push_back(lower(*body, smashed_shape(cloud.info.model, cloud.info.split)));
  Plan bodies(nets, Device{}, Dtype::kF32, kImagesAtOnce);
  EdgePipeline exact(edge, kImagesAtOnce), int8(bundle, kImagesAtOnce);
  compare(
      draw_images(config, DataPart::kTest, flags.test),
      [&](const Tensor& images) { return exact.finish(bodies.run_all(exact.smash(images))); },
      [&](const Tensor& images) {
        return int8.finish(bodies.run_all(int8.smash(run_int8(bundle.blinded->net, images))));
      },
      flags);
  write_edge_bundle(file, bundle);
  say_next(file, bundle.blinded->net.groups.size());
}

void pack(const PackFlags& flags) {
  RunConfig config = flags.read_config("offload pack", "--set protection.kind=none ");
  apply_overrides(flags.overrides, config);
  complete(config);
  config.offload().cells() > 0 ? pack_cells(flags, config) : pack_whole(flags, config);
}

// ---- what colluding workers learn

struct AttackFlags {
  std::string run, data, device = "auto";
  std::vector<std::string> overrides;
  int64_t images = 0, public_images = 0;  // 0: as the settings say
};

void attack(const AttackFlags& flags) {
  RunConfig config = read_run_config(flags.run);
  apply_overrides(flags.overrides, config);
  complete(config);
  if (!flags.data.empty()) config.mutable_data()->set_root(flags.data);
  if (flags.images > 0) config.mutable_attack()->set_scored_images(flags.images);
  if (flags.public_images > 0) config.mutable_attack()->set_public_images(flags.public_images);
  config.set_device(flags.device);
  print_results(attack_blinded(flags.run, config));
}

}  // namespace

void add_offload_command(CLI::App& app) {
  CLI::App* offload = app.add_subcommand(
      "offload",
      "Blinded inference: linear layers computed by workers who learn nothing (docs/offload.md)");
  offload->require_subcommand(1);
  auto flags = std::make_shared<PackFlags>();
  flags->most_loss = 0.5;
  CLI::App* command = offload->add_subcommand(
      "pack",
      "Make the edge's bundle of an unprotected run's network in int8, or of the "
      "first cells of any run's head (--set offload.cells=N), "
      "unless that costs too much accuracy");
  flags->add_to(*command);
  add_set_flag(*command, flags->overrides);
  command->add_option(
      "-o,--out", flags->out,
      "The bundle's file (default: RUN/blinded.h5; of some cells RUN/edge-blinded.h5)");
  command->callback([flags] { pack(*flags); });

  add_offload_bench_command(*offload);
  add_offload_noise_command(*offload);

  auto attacking = std::make_shared<AttackFlags>();
  command =
      offload->add_subcommand("attack",
                              "What 1, 2, ... colluding workers can reconstruct of the images, "
                              "from their shares: a run folder for each in "
                              "RUN/blinded, which the report shows beside the other protections");
  command->add_option("run", attacking->run, "Run folder with blinded.h5")->required();
  add_set_flag(*command, attacking->overrides);
  command
      ->add_option("--images", attacking->images,
                   "Test images that are reconstructed (default: attack.scored_images)")
      ->check(at_least(1));
  command
      ->add_option("--public-images", attacking->public_images,
                   "Images that the workers have themselves (default: attack.public_images)")
      ->check(at_least(1));
  command->add_option(
      "--data", attacking->data,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command->add_option("--device", attacking->device, "auto, cpu, cuda or cuda:1")
      ->capture_default_str();
  command->callback([attacking] { attack(*attacking); });
}

}  // namespace ens
