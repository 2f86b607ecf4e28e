#include "nn/plan/plan.h"

#include <algorithm>
#include <string>

#include "nn/core/error.h"
#include "nn/plan/fuse.h"

namespace ens {
Plan::Plan(const Graph& graph, Device device, Dtype dtype, int64_t max_batch)
    : device_(device), max_batch_(max_batch), graph_(fuse(graph)) {
  if (max_batch < 1) {
    usage_fail("a plan needs room for at least one image, not " + std::to_string(max_batch), "Plan",
               "set the maximal batch to 1 or more");
  }
  parameters_ = graph_.parameters();
  flops_ = graph_.flops();
  executable_ = backend(device).compile(graph_, dtype, max_batch);
  for (GraphStep& step : graph_.steps) step.weight = step.bias = Tensor();
}

Tensor Plan::run(const Tensor& images) {
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
  Tensor result = Tensor::empty(batched(total, output_shape()), Dtype::kF32, device_);
  for (int64_t start = 0; start < total; start += max_batch_) {
    const int64_t count = std::min(max_batch_, total - start);
    result.rows(start, count).copy_from(part(start, count));
  }
  return result;
}

}  // namespace ens
