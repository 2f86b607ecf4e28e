// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/denoiser.h"

#include <cmath>
#include <string>

#include "nn/autograd/ops.h"

namespace ens {

Denoiser::Denoiser(const Shape& image, int channels, int blocks, Rng& rng) {
  const int64_t colours = image[0], c = channels;
  // A kernel of 6 and stride 2: 3x3 over blocks of 2x2 pixels.
  const bool half = image[1] % 2 == 0 && image[2] % 2 == 0;
  const ConvSpec outer{half ? 2 : 1, half ? 2 : 1};
  first_ = add("first", std::make_shared<Conv2d>(colours + 1, c, half ? 6 : 3, outer, true, rng));
  for (int i = 0; i < blocks; ++i) {
    auto block = std::make_shared<Sequential>();
    block->push(std::make_shared<Activation>(UnaryOp::kRelu));
    block->push(std::make_shared<Conv2d>(c, c, 3, ConvSpec{1, 1}, true, rng));
    block->push(std::make_shared<Activation>(UnaryOp::kRelu));
    block->push(std::make_shared<Conv2d>(c, c, 3, ConvSpec{1, 1}, true, rng));
    blocks_.push_back(add("block" + std::to_string(i), block));
  }
  last_ =
      add("last", std::make_shared<ConvTranspose2d>(c, colours, half ? 6 : 3, outer, 0, true, rng));
}

Var Denoiser::noise(const Var& noisy, std::span<const float> sizes) {
  const int64_t n = noisy.dim(0);
  Tensor scale = Tensor::empty({n, 1, 1, 1}), level = Tensor::empty({n, 1, 1, 1});
  for (int64_t i = 0; i < n; ++i) {
    const float s = sizes[static_cast<size_t>(i)];
    scale.data<float>()[i] = 1 / std::sqrt(0.0625f + s * s);  // inputs of about unit variance
    level.data<float>()[i] = 0.5f + 0.25f * std::log(s);
  }
  const auto there = [&](const Tensor& t) {
    return Var(t.to(noisy.value().dtype()).to(noisy.value().device()));
  };
  const Var plane = affine(slice(noisy, 1, 0, 1), 0, 0);
  const Var x = concat(
      std::vector<Var>{mul(affine(noisy, 1, -0.5f), there(scale)), ens::add(plane, there(level))},
      1);
  return forward(x);
}

Var Denoiser::forward(const Var& x) {
  Var h = first_->forward(x);
  for (const auto& block : blocks_) h = ens::add(h, block->forward(h));
  return last_->forward(ens::relu(h));
}

}  // namespace ens
