// SPDX-License-Identifier: Apache-2.0
// ensembler offload noise: what DarKnight's noises cost accuracy, over real numbers and over a
// field.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/flags.h"
#include "ensemble/model/blinded_bundle.h"
#include "experiment/run_dir.h"
#include "lab/commands/commands.h"
#include "lab/datasets.h"
#include "lab/shares_accuracy.h"
#include "nn/core/backend.h"
#include "offload/schemes/schemes.h"
#include "proto/config.h"

namespace ens {
namespace {

struct NoiseFlags {
  std::string run, data;
  std::vector<std::string> overrides;
  int64_t images = 1000;
};

// The noises of the paper's table 2: mean and variance, as N(a, b) is read, or mean and deviation.
struct Noise {
  std::string name;
  double mean, stddev;
};
std::vector<Noise> published_noises() {
  std::vector<Noise> out = {{"N(0, 1)", 0, 1}};
  for (const bool is_variance : {true, false}) {
    for (const auto& [a, b] : {std::pair{4e3, 4e3}, {2e4, 4e3}, {1e4, 1e4}, {1e4, 5e3}}) {
      out.push_back(
          {fmt::format("{} {:g}, {} {:g}", "mean", a, is_variance ? "variance" : "deviation", b), a,
           is_variance ? std::sqrt(b) : b});
    }
  }
  return out;
}

void noise(const NoiseFlags& flags) {
  RunConfig config = read_run_config(flags.run);
  apply_overrides(flags.overrides, config);
  complete(config);
  if (!flags.data.empty()) config.mutable_data()->set_root(flags.data);
  const OffloadConfig& offload = config.offload();
  const BlindedBundle bundle = read_blinded_bundle(std::filesystem::path(flags.run) / "blinded.h5");
  const auto test = shared_dataset(config, DataPart::kTest);
  check_classes(*test, bundle.class_names, flags.run);
  const int64_t images = std::min(flags.images, test->count());
  fmt::print(
      "{}\nK = {}, T = {}, {} test images of {}; errors relative to a layer's largest "
      "product\n\n{:<34} {:>8} {:>8} {:>9} {:>12}\n",
      backend(Device{}).description(), offload.virtual_batch(), offload.noises(), images,
      config.data().name(), "shares", "top-1 %", "top-5 %", "changed", "layer error");
  const auto row = [&](const std::string& title, const std::string& scheme, const Noise& n) {
    const auto made = make_scheme(scheme, {.field = Field::named(offload.field()),
                                           .virtual_batch = offload.virtual_batch(),
                                           .noises = offload.noises(),
                                           .shares = offload.virtual_batch() + offload.noises(),
                                           .noise_mean = n.mean,
                                           .noise_stddev = n.stddev});
    const SharesAccuracy a = shares_accuracy(bundle.net, *made, *test, images);
    fmt::print("{:<34} {:>8.2f} {:>8.2f} {:>9} {:>12.1e}\n", title, 100 * a.top1, 100 * a.top5,
               a.changed, a.layer_error);
    std::fflush(stdout);
  };
  row("int8, no shares", "clear", {});
  row("residues, uniform noise", "darknight_field", {});
  for (const Noise& n : published_noises()) row("reals, " + n.name, "darknight_real", n);
}

}  // namespace

void add_offload_noise_command(CLI::App& offload) {
  auto flags = std::make_shared<NoiseFlags>();
  CLI::App* command = offload.add_subcommand(
      "noise",
      "What DarKnight's noises cost a network's accuracy: the paper's, over real numbers, beside "
      "uniform noise over a field, which costs none");
  command->add_option("run", flags->run, "Run folder with blinded.h5")->required();
  add_set_flag(*command, flags->overrides);
  command->add_option("--images", flags->images, "Test images")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option(
      "--data", flags->data,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command->callback([flags] { noise(*flags); });
}

}  // namespace ens
