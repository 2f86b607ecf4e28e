// SPDX-License-Identifier: Apache-2.0
#include "lab/exchange.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/strings.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/train/trainer.h"
#include "nn/io/onnx.h"
#include "nn/io/safetensors.h"
#include "nn/models/torchvision.h"
#include "nn/plan/fuse.h"
#include "proto/protections.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// Appends the steps of `next`, which reads what `net` yields.
Graph joined(const Graph& net, const Module& next) {
  Graph all = net;
  all.output = next.lower(all, all.output);
  return all;
}

std::vector<NamedTensor> together(const std::vector<const Module*>& parts) {
  std::vector<NamedTensor> state;
  for (const Module* part : parts) {
    for (NamedTensor& entry : part->state()) state.push_back(std::move(entry));
  }
  return state;
}

// What the tail reads: the P outputs themselves, which it weighs by 1/P.
Graph tail_graph(const EdgeBundle& edge) {
  const int selected = edge.selector.count();
  Shape input = body_output_shape(edge.info.model, edge.info.split);
  input.set(0, input[0] * selected);
  Graph graph;
  graph.input = graph.output = graph.add_value(input);
  if (selected > 1) {
    GraphStep mean{.kind = GraphStep::Kind::kActivation, .input = graph.input};
    mean.activation = UnaryOp::kAffine;
    mean.a = 1.0f / static_cast<float>(selected);
    graph.output = graph.append(std::move(mean));
  }
  return joined(graph, *edge.tail);
}

class Exporter {
 public:
  Exporter(fs::path folder, ExchangeFormat format, const ModelSpec& spec)
      : folder_(std::move(folder)), format_(format), spec_(spec) {}

  // `parts` in the order of the network, lowered as `graph`.
  void write(const std::string& name, const std::vector<const Module*>& parts, const Graph& graph,
             OnnxOptions options) {
    if (format_ == ExchangeFormat::kSafetensors) {
      const fs::path file = path(name);
      write_safetensors(file, to_torchvision(spec_, together(parts), file.string()),
                        options.secret);
      return;
    }
    options.name = name;
    write_onnx(path(name), {fuse(graph)}, options);
  }
  fs::path path(const std::string& name) {
    const bool onnx = format_ == ExchangeFormat::kOnnx;
    exported.files.push_back(folder_ / (name + (onnx ? ".onnx" : ".safetensors")));
    return exported.files.back();
  }

  Exported exported;

 private:
  const fs::path folder_;
  const ExchangeFormat format_;
  const ModelSpec& spec_;
};

void write_secrets(const EdgeBundle& edge, const CloudBundle& cloud, ExchangeFormat format,
                   Exporter& out) {
  const std::vector<int>& selected = edge.selector.selected();
  OnnxOptions options;
  options.secret = true;
  std::map<std::string, Tensor> protection;
  for (size_t i = 0; i < edge.protection.size(); ++i) {
    const ProtectionStep& step = edge.protection[i];
    protection[fmt::format("{:02}.{}", i, step.name)] = step.values;
    if (step.name == "fixed_noise" && edge.protection.size() == 1) {
      options.offset = step.values;
    } else if (format == ExchangeFormat::kOnnx) {
      out.exported.left_out.push_back(step.name);
    }
  }
  const Graph head = lower(*edge.head, edge.info.model.input_shape());
  out.write("head", {edge.head.get()}, head, options);
  if (cloud.bodies.size() == 1) {
    OnnxOptions whole;
    whole.secret = true;
    out.write("net", {edge.head.get(), cloud.bodies[0].get(), edge.tail.get()},
              joined(joined(head, *cloud.bodies[0]), *edge.tail), whole);
  }
  options.offset = Tensor();
  if (cloud.bodies.size() > 1) {
    options.metadata["selected"] = fmt::format("{}", fmt::join(selected, ","));
  }
  out.write("tail", {edge.tail.get()}, tail_graph(edge), options);
  if (format == ExchangeFormat::kSafetensors) {
    if (cloud.bodies.size() > 1) {
      const std::vector<float> nets(selected.begin(), selected.end());
      protection["selected"] = Tensor::from(nets, {std::ssize(nets)});
    }
    if (!protection.empty()) write_safetensors(out.path("protection"), protection, /*secret=*/true);
  }
}

}  // namespace

WeightsFile read_weights(const fs::path& file) {
  const std::string bytes = read_file(file);
  return {file.string(), to_hex(sha256(bytes.data(), bytes.size())),
          parse_safetensors(bytes, file.string())};
}

RunConfig import_config(RunConfig given, const std::vector<WeightsFile>& files) {
  std::vector<std::string> digests;
  for (const WeightsFile& file : files) digests.push_back(file.sha256);
  given.mutable_model()->set_imported(join(digests, ","));
  if (files.size() == 1 && !given.protection().has_kind()) {
    given.mutable_protection()->set_kind(unprotected_kind());
  }
  if (!given.ensemble().has_nets()) {
    given.mutable_ensemble()->set_nets(static_cast<int>(files.size()));
  }
  complete(given);
  const int nets = given.ensemble().nets();
  if (nets != std::ssize(files)) {
    usage_fail(fmt::format("{} weights files for {} server nets", files.size(), nets),
               "ensemble.nets", "give one file for each net");
  }
  check_importable(given);
  return given;
}

Exported export_run(const fs::path& run, const fs::path& folder, ExchangeFormat format,
                    bool secrets) {
  if (!fs::exists(run / "DONE")) {
    usage_fail("not a finished run folder", run.string(), "train it first: ensembler train --out");
  }
  const CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  fs::create_directories(folder);
  Exporter out(folder, format, cloud.info.model);
  const Shape feature = smashed_shape(cloud.info.model, cloud.info.split);
  for (size_t i = 0; i < cloud.bodies.size(); ++i) {
    out.write(fmt::format("body{}", cloud.part[i]), {cloud.bodies[i].get()},
              lower(*cloud.bodies[i], feature), {});
  }
  if (!secrets) return out.exported;
  const EdgeBundle edge = read_edge_bundle(run / "edge.h5");
  if (edge.info.fingerprint != cloud.info.fingerprint) {
    fail("edge.h5 and cloud.h5 come from different trainings", run.string());
  }
  write_secrets(edge, cloud, format, out);
  return out.exported;
}

}  // namespace ens
