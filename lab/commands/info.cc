// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "ensemble/model/precision.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/scenarios/blinded.h"
#include "nn/plan/fuse.h"
#include "nn/plan/int8.h"
#include "offload/schemes/schemes.h"

namespace ens {
namespace {

std::string with_units(double value) {
  for (const char* unit : {"", " k", " M", " G"}) {
    if (value < 1000) return fmt::format("{:.{}g}{}", value, 4, unit);
    value /= 1000;
  }
  return fmt::format("{:.4g} T", value);
}

// Classes and image size of a data set without reading it; a folder's must be read.
ModelSpec spec_without_images(const RunConfig& config) {
  struct Known {
    const char* name;
    int classes, channels, size;
  };
  static constexpr Known kKnown[] = {{"cifar10", 10, 3, 32},
                                     {"cifar100", 100, 3, 32},
                                     {"mnist", 10, 1, 28},
                                     {"fashion_mnist", 10, 1, 28},
                                     {"shapes", 10, 3, 32}};
  for (const Known& k : kKnown) {
    if (config.data().name() != k.name) continue;
    Dataset facts;
    facts.name = k.name;
    facts.channels = k.channels;
    facts.height = facts.width =
        config.data().image_size() > 0 ? config.data().image_size() : k.size;
    facts.class_names.assign(static_cast<size_t>(k.classes), "");
    facts.mean.assign(static_cast<size_t>(k.channels), 0.5f);
    facts.stddev.assign(static_cast<size_t>(k.channels), 0.25f);
    return model_spec(config, facts);
  }
  return model_spec(config,
                    load_dataset(data_options(config, DataSplit::kTrain), DataSplit::kTrain));
}

// `p` has shapes of one image, without the batch axis.
std::string describe_conv(const ConvProblem& p) {
  std::string text =
      fmt::format("{}x{}x{} -> {}, {}x{}", p.x[0], p.x[1], p.x[2], p.y[0], p.w[2], p.w[3]);
  if (p.spec.stride != 1) text += fmt::format(", stride {}", p.spec.stride);
  return text;
}

// The convolutions of a network, each form once; x and y as in a Graph, without the batch axis.
std::vector<ConvProblem> convolutions_of(const ModelSpec& spec) {
  Rng rng = Rng::blank();
  const int cells = static_cast<int>(describe_cells(spec).size());
  const Graph graph = lower(*build_cells(spec, 0, cells, rng), spec.input_shape());
  std::set<std::string> seen;
  std::vector<ConvProblem> list;
  for (const GraphStep& s : graph.steps) {
    if (s.kind != GraphStep::Kind::kConv) continue;
    const ConvProblem p{.x = graph.shape(s.input),
                        .w = s.weight.shape(),
                        .y = graph.shape(s.output),
                        .spec = s.conv};
    if (seen.insert(describe_conv(p)).second) list.push_back(p);
  }
  return list;
}

// Which implementation computes each convolution on the configured device, and why not the others.
void print_kernels(const RunConfig& config) {
  const ModelSpec spec = spec_without_images(config);
  const Device device = devices_for(config).front();
  const Backend& be = backend(device);
  const Dtype dtype = choose_dtype(config.dtype(), device);
  const std::vector<ConvProblem> layers = convolutions_of(spec);
  fmt::print("{}\n{}, width {}, images {}, {}\n\n", be.description(), spec.architecture, spec.width,
             spec.input_shape().str(), name(dtype));
  const auto print_layers = [&](bool serving, int64_t batch) {
    fmt::print("{} at batch {}: implementations of a convolution, best first\n",
               serving ? "Serving" : "Training", batch);
    for (size_t i = 0; i < layers.size(); ++i) {
      ConvProblem p = layers[i];
      p.dtype = dtype;
      p.serving = serving;
      p.x = batched(batch, p.x);
      p.y = batched(batch, p.y);
      const std::vector<ConvCandidate> candidates = be.explain_conv(p);
      if (i == 0) {
        for (const ConvCandidate& c : candidates)
          fmt::print("  {:<24} {}\n", c.name, c.description);
      }
      std::vector<std::string> taken;
      for (const ConvCandidate& c : candidates) {
        if (c.rejected.empty()) taken.push_back(c.name);
      }
      fmt::print("{:<32} {}{}\n", describe_conv(layers[i]), fmt::join(taken, ", "),
                 taken.size() > 1 ? " (the fastest when timed on the device)" : "");
      for (const ConvCandidate& c : candidates) {
        if (!c.rejected.empty()) fmt::print("  not {}: {}\n", c.name, c.rejected);
      }
    }
    fmt::print("\n");
  };
  print_layers(false, config.stage1().batch());
  print_layers(true, 1);
  print_layers(true, 32);
}

void print_info(const RunConfig& config) {
  const ModelSpec spec = spec_without_images(config);
  const int copies = config.ensemble().nets() == 1 ? 1 : config.ensemble().selected();
  check(spec, split_of(config));
  const std::vector<CellInfo> cells = describe_cells(spec);
  fmt::print("{}, width {}, {} classes, images {}\n\n", spec.architecture, spec.width, spec.classes,
             spec.input_shape().str());
  fmt::print("{:<4} {:<10} {:<16} {:>12} {:>12}\n", "", "cell", "output", "parameters", "FLOPs");
  int64_t parameters = 0, flops = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    const CellInfo& c = cells[i];
    fmt::print("{:<4} {:<10} {:<16} {:>12} {:>12}\n", i + 1, c.name, c.output.str(), c.parameters,
               with_units(static_cast<double>(c.flops)));
    parameters += c.parameters;
    flops += c.flops;
  }
  fmt::print("{:<4} {:<10} {:<16} {:>12} {:>12}\n", "", "all", "", parameters,
             with_units(static_cast<double>(flops)));

  const int nets = config.ensemble().nets();
  const auto channel = make_protection_training(config)->channel(
      config, smashed_shape(spec, split_of(config)).numel());
  fmt::print(
      "\nSplits: the edge runs the first h and the last t cells. N = {} server networks, P = {} of "
      "them "
      "selected; one image, float32\n",
      nets, copies);
  fmt::print("{:>2} {:>2}  {:<16} {:<12} {:>13} {:>11} {:>12} {:>11} {:>11}\n", "h", "t", "sent",
             "output", "edge params", "edge FLOPs", "cloud FLOPs", "up bytes", "down bytes");
  const int count = static_cast<int>(cells.size());
  for (int h = 1; h + 1 < count; ++h) {
    for (int t = 1; h + t < count; ++t) {
      const Split split{h, t};
      const SplitCost cost = split_cost(spec, split, copies);
      const bool chosen = h == config.model().head_cells() && t == config.model().tail_cells();
      fmt::print("{:>2} {:>2}{} {:<16} {:<12} {:>13} {:>11} {:>12} {:>11} {:>11}\n", h, t,
                 chosen ? '*' : ' ', cost.sent.str(), cost.body_output.str(), cost.edge_parameters,
                 with_units(static_cast<double>(cost.edge_flops)),
                 with_units(static_cast<double>(cost.body_flops) * nets),
                 cost.sent.numel() * (channel ? 1 : 4), cost.body_output.numel() * 4 * nets);
    }
  }
  fmt::print(
      "* the configured split. FLOPs: convolutions and linear layers, a multiply-add is 2.\n");
  if (channel) {
    fmt::print(
        "\nChannel: a request carries at most R = {:g} bits of information about its image (an "
        "average "
        "over the noise):\nk = {} elements of mean square P = {:.4g} ({:.1f} dB), noise of "
        "variance 1, "
        "{} bytes in int8 steps of {:.3f}.\n",
        channel->bits, channel->elements, channel->power, 10 * std::log10(channel->power),
        channel->elements, channel->int8_step);
    if (channel->keyed) {
      fmt::print(
          "The noise comes from the device's key and the image: sent again, an image gives the "
          "same bytes.\n");
    } else {
      fmt::print(
          "Sent again, an image has new noise: 4, 16 and 64 requests carry {:.0f}, {:.0f} and "
          "{:.0f} bits.\n",
          channel->bits_of_sends(4), channel->bits_of_sends(16), channel->bits_of_sends(64));
    }
  }
}

// What blinded inference of the first cells costs for one image, and over networks of some round
// trips.
void print_offload(const RunConfig& config) {
  const ModelSpec spec = spec_without_images(config);
  const OffloadConfig& offload = config.offload();
  const auto scheme =
      make_scheme(offload.scheme(),
                  {.field = Field::named(offload.field()),
                   .virtual_batch = offload.virtual_batch(),
                   .noises = offload.noises(),
                   .shares = offload.virtual_batch() + offload.noises() + offload.spare_shares()});
  const int sent = scheme->needed() + offload.spare_shares(),
            seeds = std::min(scheme->seeds(), sent);
  fmt::print(
      "{}, width {}, images {}; scheme {}, field {}, K = {}, {} workers asked, any {} decode, any "
      "{} learn "
      "nothing\n{} of them are sent 32-byte seeds in place of shares\n\n",
      spec.architecture, spec.width, spec.input_shape().str(), offload.scheme(), offload.field(),
      scheme->inputs(), sent, scheme->needed(), scheme->claims().collusion, seeds);
  fmt::print("{:<22} {:>6} {:>12} {:>12} {:>10} {:>10} {:>10}\n", "blinded", "rounds", "bytes up",
             "bytes down", "1 ms", "20 ms", "80 ms");
  Rng rng = Rng::blank();
  const std::vector<std::string> cells = cell_names(spec);
  for (int last = 1; last <= static_cast<int>(cells.size()); ++last) {
    const Graph graph = fuse(lower(*build_cells(spec, 0, last, rng), spec.input_shape()));
    const BlindedCost cost = blinded_cost(graph, int8_groups(graph), *scheme, sent);
    const auto network = [&](double round_trip_ms) {
      constexpr double kBytesPerMs = 125'000;  // 1 Gbit/s, shared by all workers
      return static_cast<double>(cost.rounds) * round_trip_ms +
             static_cast<double>(cost.bytes_up + cost.bytes_down) / kBytesPerMs;
    };
    const std::string name =
        last == 1 ? cells[0] : cells[0] + " to " + cells[static_cast<size_t>(last - 1)];
    fmt::print("{:<22} {:>6} {:>12} {:>12} {:>7.0f} ms {:>7.0f} ms {:>7.0f} ms\n", name,
               cost.rounds, cost.bytes_up, cost.bytes_down, network(1), network(20), network(80));
  }
  fmt::print(
      "For one image: bytes of all workers together; time that a network of this round trip and 1 "
      "Gbit/s takes, "
      "without computing.\nA bundle of `ensembler offload pack` blinds all cells (the last "
      "row), or the first `offload.cells` of a head, with split inference behind them.\n");
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto flags = std::make_shared<ConfigFlags>();
  CLI::App* command = app.add_subcommand(
      "info", "A model's cells, and the cost of every split for edge, wire and cloud");
  flags->add_to(*command);
  auto kernels = std::make_shared<bool>(false);
  command->add_flag("--kernels", *kernels,
                    "Print instead which implementation computes each convolution, and why");
  auto offload = std::make_shared<bool>(false);
  command
      ->add_flag(
          "--offload", *offload,
          "Print instead what blinded inference costs: bytes, rounds and time on three networks")
      ->excludes("--kernels");
  command->callback([flags, kernels, offload] {
    const RunConfig config = flags->resolve();
    *offload ? print_offload(config) : *kernels ? print_kernels(config) : print_info(config);
  });
}

}  // namespace ens
