// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/patch_decoder.h"

#include <algorithm>
#include <cmath>

#include "nn/core/rng.h"
#include "nn/optim/optim.h"
#include "nn/optim/schedule.h"

namespace ens {
namespace {

constexpr int64_t kHidden = 512, kBatch = 256;
constexpr int64_t kPasses = 12, kLeastSteps = 200, kMostSteps = 2000;
constexpr float kRate = 2e-3f;

Tensor pick_rows(const Tensor& from, const std::vector<int64_t>& rows) {
  const int64_t size = from.dim(1);
  Tensor out = Tensor::empty({std::ssize(rows), size});
  for (int64_t i = 0; i < std::ssize(rows); ++i) {
    std::copy_n(from.data<float>() + rows[static_cast<size_t>(i)] * size, size,
                out.data<float>() + i * size);
  }
  return out;
}

}  // namespace

PatchDecoder::PatchDecoder(const Tensor& codes, const Tensor& patches, const AttackContext& context)
    : device_(context.device) {
  const int64_t d = codes.dim(2), q = patches.dim(2), count = codes.dim(0) * codes.dim(1);
  mean_ = Tensor::zeros({d});
  scale_ = Tensor::zeros({d});
  std::vector<double> sum(static_cast<size_t>(d)), square(sum.size());
  for (int64_t i = 0; i < codes.numel(); ++i) {
    const double v = codes.data<float>()[i];
    sum[static_cast<size_t>(i % d)] += v;
    square[static_cast<size_t>(i % d)] += v * v;
  }
  for (int64_t k = 0; k < d; ++k) {
    const double mean = sum[static_cast<size_t>(k)] / static_cast<double>(count);
    const double variance =
        square[static_cast<size_t>(k)] / static_cast<double>(count) - mean * mean;
    mean_.data<float>()[k] = static_cast<float>(mean);
    scale_.data<float>()[k] = static_cast<float>(1 / std::sqrt(std::max(variance, 1e-8)));
  }
  Rng rng(context.seed, "patch decoder");
  net_ = std::make_shared<Sequential>();
  net_->push(std::make_shared<Linear>(d, kHidden, true, rng));
  net_->push(std::make_shared<Activation>(UnaryOp::kRelu));
  net_->push(std::make_shared<Linear>(kHidden, kHidden, true, rng));
  net_->push(std::make_shared<Activation>(UnaryOp::kRelu));
  net_->push(std::make_shared<Linear>(kHidden, q, true, rng));
  net_->to(device_);
  Optimizer optimizer(net_->parameters(), {.kind = OptimSpec::Kind::kAdam});
  Schedule schedule{.kind = Schedule::Kind::kCosine, .peak = kRate};
  schedule.steps = std::clamp(kPasses * count / kBatch, kLeastSteps, kMostSteps);
  const Tensor x = normalised(codes), y = patches.reshape({count, q});
  std::vector<int64_t> rows(static_cast<size_t>(kBatch));
  for (int64_t step = 0; step < schedule.steps; ++step) {
    for (int64_t& row : rows) row = static_cast<int64_t>(rng.below(static_cast<uint64_t>(count)));
    const Var decoded = net_->forward(cast(Var(pick_rows(x, rows).to(device_)), context.dtype));
    const Var loss = mse(cast(decoded, Dtype::kF32), Var(pick_rows(y, rows).to(device_)));
    loss.backward();
    optimizer.step(schedule.at(step));
    if (step % 50 == 0) context.report(kBatch * 50, "decoder");
  }
  net_->freeze();
  net_->train(false);
}

Tensor PatchDecoder::normalised(const Tensor& codes) const {
  const int64_t d = mean_.numel();
  Tensor out = codes.reshape({codes.numel() / d, d}).clone();
  for (int64_t i = 0; i < out.numel(); ++i) {
    float& v = out.data<float>()[i];
    v = (v - mean_.data<float>()[i % d]) * scale_.data<float>()[i % d];
  }
  return out;
}

Tensor PatchDecoder::decode(const Tensor& codes) const {
  const Tensor y = net_->forward(Var(normalised(codes).to(device_))).value().to(Device{}).plain();
  return y.reshape({codes.dim(0), codes.dim(1), y.dim(1)});
}

}  // namespace ens
