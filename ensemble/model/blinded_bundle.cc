// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/blinded_bundle.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "ensemble/model/bundle_file.h"
#include "nn/plan/fuse.h"

namespace ens {

using namespace bundle_file;

namespace {

// Of step i of the fused graph: "steps/0007/weight", ...
std::string entry(size_t step, const char* what) {
  return fmt::format("steps/{:04}/{}", step, what);
}

Graph fused_graph(const ModelSpec& spec, int cells) {
  Rng rng = Rng::blank();
  return fuse(lower(*build_cells(spec, 0, cells, rng), spec.input_shape()));
}

const Tensor& get(const Checkpoint& checkpoint, const std::string& name, const Shape& shape,
                  Dtype dtype) {
  const Tensor& tensor = checkpoint.tensor(name);
  if (tensor.dtype() != dtype || !(tensor.shape() == shape)) {
    fail(name + " is " + tensor.shape().str() + ", expected " + shape.str(), checkpoint.file,
         "write the bundle again");
  }
  return tensor;
}

}  // namespace

void bundle_file::put_int8_net(Checkpoint& checkpoint, const Int8Net& net) {
  auto& tensors = checkpoint.tensors;
  for (size_t i = 0; i < net.graph.steps.size(); ++i) {
    const GraphStep& s = net.graph.steps[i];
    if (s.weight.defined()) tensors[entry(i, "weight")] = s.weight;
    if (s.bias.defined()) tensors[entry(i, "bias")] = s.bias;
  }
  for (const Int8Group& group : net.groups) {
    for (const Int8Step& step : group.steps) {
      tensors[entry(step.step, "weight")] = step.layer.weight;
      tensors[entry(step.step, "scales")] =
          Tensor::from(step.scales, {static_cast<int64_t>(step.scales.size())});
    }
    tensors[entry(group.steps[0].step, "input_scale")] = Tensor::from({group.input_scale}, {1});
  }
}

size_t bundle_file::get_int8_net(const Checkpoint& checkpoint, const ModelSpec& model, int cells,
                                 Int8Net& net) {
  net.graph = fused_graph(model, cells);
  net.groups = int8_groups(net.graph);
  size_t count = 0;
  for (Int8Group& group : net.groups) {
    const std::string scale = entry(group.steps[0].step, "input_scale");
    group.input_scale = get(checkpoint, scale, {1}, Dtype::kF32).item();
    if (!(std::isfinite(group.input_scale) && group.input_scale > 0))
      fail(scale + " is impossible", checkpoint.file);
    ++count;
    for (Int8Step& step : group.steps) {
      GraphStep& s = net.graph.steps[step.step];
      step.layer.weight = get(checkpoint, entry(step.step, "weight"), s.weight.shape(), Dtype::kI8);
      const auto scales =
          get(checkpoint, entry(step.step, "scales"), {s.weight.dim(0)}, Dtype::kF32).span<float>();
      step.scales.assign(scales.begin(), scales.end());
      s.weight = Tensor();
      count += 2;
    }
  }
  for (size_t i = 0; i < net.graph.steps.size(); ++i) {
    GraphStep& s = net.graph.steps[i];
    if (s.weight.defined()) {
      s.weight = get(checkpoint, entry(i, "weight"), s.weight.shape(), Dtype::kF32);
      ++count;
    }
    if (s.bias.defined()) {
      s.bias = get(checkpoint, entry(i, "bias"), s.bias.shape(), Dtype::kF32);
      ++count;
    }
  }
  return count;
}

void write_blinded_bundle(const std::filesystem::path& file, BlindedBundle& bundle) {
  Checkpoint checkpoint;
  checkpoint.kind = "edge";
  put_int8_net(checkpoint, bundle.net);
  bundle.info.fingerprint = digest(checkpoint.tensors);
  put_info(checkpoint, bundle.info);
  checkpoint.numbers["format"] = kFormatBlinded;
  put_class_names(checkpoint, bundle.class_names, file);
  write_checkpoint(file, checkpoint, /*secret=*/false);
}

BlindedBundle read_blinded_bundle(const std::filesystem::path& file) {
  return read_blinded_bundle(read_checkpoint(file, "edge"));
}

BlindedBundle read_blinded_bundle(const Checkpoint& checkpoint) {
  BlindedBundle bundle;
  bundle.info = get_info(checkpoint);
  if (!is_blinded_bundle(checkpoint)) {
    fail("this is no bundle of blinded inference", checkpoint.file,
         "make one with ensembler offload pack");
  }
  bundle.class_names = get_class_names(checkpoint, bundle.info.model);
  const int cells = static_cast<int>(cell_names(bundle.info.model).size());
  check_count(checkpoint, get_int8_net(checkpoint, bundle.info.model, cells, bundle.net));
  return bundle;
}

bool is_blinded_bundle(const Checkpoint& checkpoint) {
  return checkpoint.number("format") == kFormatBlinded;
}

}  // namespace ens
