// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/plan.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "nn/plan/fuse.h"

namespace ens {
namespace {

bool same_form(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || a.shape() == b.shape());
}

bool same_form(const GraphStep& a, const GraphStep& b) {
  return a.kind == b.kind && a.input == b.input && a.output == b.output &&
         a.residual == b.residual && a.conv == b.conv && a.pool == b.pool &&
         a.activation == b.activation && a.a == b.a && a.b == b.b && a.heads == b.heads &&
         a.relu == b.relu && (a.input_max > 0) == (b.input_max > 0) &&
         same_form(a.weight, b.weight) && same_form(a.bias, b.bias);
}

bool same_form(const Graph& a, const Graph& b) {
  return a.input == b.input && a.output == b.output && a.values == b.values &&
         std::ranges::equal(a.steps, b.steps,
                            [](const auto& s, const auto& t) { return same_form(s, t); });
}

}  // namespace

Plan::Plan(const Graph& graph, Device device, Dtype dtype, int64_t max_batch)
    : Plan(std::vector{graph}, device, dtype, max_batch) {}

Plan::Plan(const std::vector<Graph>& nets, Device device, Dtype dtype, int64_t max_batch)
    : device_(device), max_batch_(max_batch), nets_(static_cast<int64_t>(nets.size())) {
  if (max_batch < 1) {
    usage_fail("a plan needs room for at least one image, not " + std::to_string(max_batch), "Plan",
               "set the maximal batch to 1 or more");
  }
  if (nets.empty()) usage_fail("a plan needs at least one net", "Plan");
  std::vector<Graph> fused;
  for (const Graph& net : nets) fused.push_back(fuse(net));
  for (const Graph& net : fused) {
    if (!same_form(net, fused[0])) {
      usage_fail("the nets of a plan must have the same steps and shapes", "Plan",
                 "make a plan for each");
    }
    parameters_ += net.parameters();
    flops_ += net.flops();
  }
  executable_ = backend(device).compile(fused, dtype, max_batch);
  graph_ = std::move(fused[0]);
  for (GraphStep& step : graph_.steps) step.weight = step.bias = Tensor();
}

Tensor Plan::run(const Tensor& images) {
  if (nets_ != 1) usage_fail("a plan of several nets has several outputs", "Plan::run");
  const Tensor all = run_all(images);
  return all.reshape(batched(all.dim(1), output_shape()));
}

Tensor Plan::run_all(const Tensor& images) {
  if (!images.defined()) usage_fail("a plan was given no images", "Plan::run");
  const Shape& shape = images.shape();
  if (shape.rank() < 1 || shape[0] < 1 || !(shape == batched(shape[0], input_shape()))) {
    usage_fail("the network takes a batch of at least one input of shape " + input_shape().str() +
                   ", not a tensor of shape " + shape.str(),
               "Plan::run", "check the image size, the split point and the batch axis");
  }
  const int64_t total = shape[0];
  auto part = [&](int64_t start, int64_t count) {
    return executable_->run(images.rows(start, count).to(device_).to(Dtype::kF32).plain());
  };
  if (total <= max_batch_) return part(0, total);
  Tensor result =
      Tensor::empty(batched(nets_, batched(total, output_shape())), Dtype::kF32, device_);
  for (int64_t start = 0; start < total; start += max_batch_) {
    const int64_t count = std::min(max_batch_, total - start);
    backend(device_).slice_update(part(start, count), result, 1, start);
  }
  return result;
}

}  // namespace ens
