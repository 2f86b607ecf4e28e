// SPDX-License-Identifier: Apache-2.0
#include "edge/whole_net.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "edge/fleet.h"

namespace ens {

WholeNetClient::WholeNetClient(const EdgeConfig& config, const BundleInfo& info)
    : info_(info), fleet_(std::make_unique<Fleet>(config, info)) {
  if (info.split.head != 0 || info.nets != 1) {
    usage_fail("the bundle is one of split inference", config.bundle(), "use ensembler-edge");
  }
}
WholeNetClient::~WholeNetClient() = default;

Result<Tensor> WholeNetClient::classify(const Tensor& inputs, EdgeTimes& times) {
  const auto start = std::chrono::steady_clock::now();
  const Shape one = info_.model.input_shape();
  if (inputs.rank() != one.rank() + 1 || inputs.dim(0) < 1 ||
      !(inputs.shape() == batched(inputs.dim(0), one))) {
    return {{StatusCode::kInvalidArgument,
             "inputs are " + inputs.shape().str() + ", and the network reads " + one.str()}};
  }
  if (inputs.dtype() != Dtype::kF32 || !all_finite(inputs)) {
    return {{StatusCode::kInvalidArgument, "an element of the inputs is no finite float32"}};
  }
  if (Status status = fleet_->check_if_needed(); !status.ok()) return {status};
  std::vector<PendingBatch> batches;
  const int64_t size = fleet_->request_batch();
  for (int64_t first = 0; first < inputs.dim(0); first += size) {
    const Tensor some = inputs.rows(first, std::min(size, inputs.dim(0) - first));
    batches.push_back({.images = some.dim(0), .features = [some] { return some; }});
  }
  if (Status status = fleet_->run(batches, times); !status.ok()) return {status};
  Result<Tensor> result;
  result.value = Tensor::empty({inputs.dim(0), info_.model.classes});
  int64_t first = 0;
  for (const PendingBatch& batch : batches) {  // outputs [1, B, classes]
    result.value.rows(first, batch.images)
        .copy_from(batch.outputs.reshape({batch.images, info_.model.classes}));
    first += batch.images;
  }
  const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
  times.total_ms += ms.count();
  return result;
}

}  // namespace ens
