// ensembler offload: an int8 network for blinded inference, from an unprotected run; and what its
// workers learn.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "attacks/core/evaluator.h"
#include "attacks/shares/views.h"
#include "base/error.h"
#include "base/flags.h"
#include "base/progress.h"
#include "ensemble/model/blinded_bundle.h"
#include "ensemble/model/edge_bundle.h"
#include "experiment/run_dir.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"
#include "proto/config.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kImagesAtOnce = 256;

struct PackFlags {
  std::string run, out, data;
  int64_t images = 512, test = 0;
  double most_loss = 0.5;
};

// Head, body and tail of an unprotected run as one graph.
Graph whole_net(const fs::path& run, BlindedBundle& bundle) {
  const CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  const EdgeBundle edge = read_edge_bundle(run / "edge.h5");
  if (edge.info.fingerprint != cloud.info.fingerprint) {
    fail("edge.h5 and cloud.h5 come from different trainings", run.string());
  }
  if (cloud.info.nets != 1 || !edge.protection.empty()) {
    usage_fail("blinded inference needs one network without a protection of its features",
               run.string(), "train one: ensembler train --set protection.kind=none --out DIR");
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

void pack(const PackFlags& flags) {
  const fs::path run = flags.run;
  if (!fs::exists(run / "DONE")) {
    usage_fail("'" + flags.run + "' is not a finished run folder", "offload pack",
               "train it first: ensembler train --set protection.kind=none --out " + flags.run);
  }
  RunConfig config = read_run_config(run);
  if (!flags.data.empty()) config.mutable_data()->set_root(flags.data);
  const fs::path file = flags.out.empty() ? run / "blinded.h5" : fs::path(flags.out);

  BlindedBundle bundle;
  const Graph graph = whole_net(run, bundle);
  const Dataset train = draw_images(config, DataPart::kTrain, flags.images);
  check_classes(train, bundle.class_names, flags.run);
  Graph fused = fuse(graph);
  set_input_ranges(fused, input_ranges(fused, images_of(train, 0, train.count())));
  bundle.net = quantize(fused);

  const Dataset test = draw_images(config, DataPart::kTest, flags.test);
  Plan exact(graph, Device{}, Dtype::kF32, kImagesAtOnce);
  Progress progress("accuracy in float32 and int8", test.count());
  int64_t right = 0, right_int8 = 0, changed = 0;
  for (int64_t first = 0; first < test.count(); first += kImagesAtOnce) {
    const Tensor images = images_of(test, first, std::min(kImagesAtOnce, test.count() - first));
    const auto in32 = argmax_rows(exact.run(images)),
               in8 = argmax_rows(run_int8(bundle.net, images));
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
  write_blinded_bundle(file, bundle);
  fmt::print(stderr,
             "{}: an int8 network of {} rounds\nnext, on machines of different owners: {}\n",
             file.string(), bundle.net.groups.size(),
             command_to_paste({"ensembler-worker", "--bind", "tcp://127.0.0.1:5756"}));
}

// ---- what colluding workers learn

struct AttackFlags {
  std::string run, data, device = "auto";
  std::vector<std::string> overrides;
  int64_t images = 128, public_images = 4000;
};

// The first step of every model normalises the images.
ImageCoding coding_of(const BlindedBundle& bundle) {
  return {bundle.info.model.mean, bundle.info.model.stddev, bundle.net.groups.at(0).input_scale};
}

void attack(const AttackFlags& flags) {
  const fs::path run = flags.run;
  RunConfig config = read_run_config(run);
  apply_overrides(flags.overrides, config);
  complete(config);
  if (!flags.data.empty()) config.mutable_data()->set_root(flags.data);
  const OffloadConfig& offload = config.offload();
  const BlindedBundle bundle = read_blinded_bundle(run / "blinded.h5");
  const Field field = Field::named(offload.field());
  const int noises = offload.noises(), shares = 1 + noises;
  const auto scheme =
      make_scheme("darknight_field", {.field = field, .noises = noises, .shares = shares});

  const Dataset scored = draw_images(config, DataPart::kTest, flags.images);
  // Of runs that set no images aside for attackers, those of the training.
  Dataset known = draw_images(config, DataPart::kPublic, flags.public_images);
  if (known.count() == 0) known = draw_images(config, DataPart::kTrain, flags.public_images);
  const Tensor truth = images_of(scored, 0, scored.count());
  const Evaluator evaluator(truth);
  ShareVictim victim{.model = bundle.info.model,
                     .coding = coding_of(bundle),
                     .code = LagrangeCode(field, 1, noises, shares),
                     .public_data = &known};
  const auto encoding = scheme->encode(victim.coding.to_integers(truth));
  const auto as_tensor = [&](std::span<const uint32_t> residues) {
    Tensor share = Tensor::empty(truth.shape(), Dtype::kI32);
    std::ranges::copy(residues, share.data<int32_t>());
    return share;
  };
  for (int j = 0; j < shares; ++j) victim.recorded.push_back(as_tensor(encoding->residues(j)));

  AttackContext context;
  context.settings = config.attack();
  context.device = parse_device(flags.device);
  context.seed = config.attack().seed() > 0 ? config.attack().seed() : config.seed();
  const auto attack = share_decoder_attack();
  fmt::print(
      "{} images; a decoder trained on the shares of {} public images; first layer, field {}, K = "
      "1, T = {}\n"
      "colluding clouds   SSIM [95 % interval]    PSNR\n",
      scored.count(), known.count(), offload.field(), noises);
  const auto row = [&](const std::string& name, const ShareVictim& who) {
    const AttackScore result =
        evaluator.evaluate(*attack, context.seed, [&] { return attack->run(who, context); });
    const Score& score = result.scores;
    fmt::print("{:<18} {:.3f} [{:.3f}, {:.3f}]   {:5.1f} dB\n", name, score.ssim.mean,
               score.ssim.low, score.ssim.high, score.psnr.mean);
    std::fflush(stdout);
  };
  // What the decoder makes of numbers that have nothing to do with the images: the floor.
  ShareVictim nothing = victim;
  std::vector<uint32_t> uniform(static_cast<size_t>(truth.numel()));
  expand_seed(SecureStream().next(), field, uniform);
  nothing.recorded[0] = as_tensor(uniform);
  nothing.coalition = {0};
  row("uniform numbers", nothing);
  for (int c = 1; c <= shares; ++c) {
    // The last workers, which are sent more than a seed.
    victim.coalition.insert(victim.coalition.begin(), shares - c);
    row(fmt::format("{} of {}", c, shares), victim);
  }
}

}  // namespace

void add_offload_command(CLI::App& app) {
  CLI::App* offload = app.add_subcommand(
      "offload",
      "Blinded inference: linear layers computed by workers who learn nothing (docs/offload.md)");
  offload->require_subcommand(1);
  auto flags = std::make_shared<PackFlags>();
  CLI::App* command =
      offload->add_subcommand("pack",
                              "Make the edge's bundle of an unprotected run's network in int8, "
                              "unless that costs too much accuracy");
  command->add_option("run", flags->run, "Run folder")->required();
  command->add_option("-o,--out", flags->out, "The bundle's file (default: RUN/blinded.h5)");
  command
      ->add_option("--images", flags->images, "Training images used to calibrate activation ranges")
      ->check(between(1, 1000000))
      ->capture_default_str();
  command->add_option("--test", flags->test, "Test images for the accuracy; 0: all")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--most-loss", flags->most_loss, "Maximum loss of accuracy, in points")
      ->capture_default_str();
  command->add_option(
      "--data", flags->data,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command->callback([flags] { pack(*flags); });

  auto attacking = std::make_shared<AttackFlags>();
  command = offload->add_subcommand(
      "attack",
      "What 1, 2, ... colluding workers can reconstruct of the images, from their shares");
  command->add_option("run", attacking->run, "Run folder with blinded.h5")->required();
  add_set_flag(*command, attacking->overrides);
  command->add_option("--images", attacking->images, "Test images that are reconstructed")
      ->check(at_least(1))
      ->capture_default_str();
  command
      ->add_option("--public-images", attacking->public_images,
                   "Images that the workers have themselves")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option(
      "--data", attacking->data,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command->add_option("--device", attacking->device, "auto, cpu, cuda or cuda:1")
      ->capture_default_str();
  command->callback([attacking] { attack(*attacking); });
}

}  // namespace ens
