// SPDX-License-Identifier: Apache-2.0
#include "nn/models/decoder.h"

#include <algorithm>

#include "base/error.h"

namespace ens {
namespace {

constexpr int64_t kNarrowest = 32;  // a map of full size needs no more: an image has 1 to 3

}  // namespace

std::shared_ptr<Sequential> build_decoder(const Shape& features, const Shape& image, int width,
                                          Rng& rng) {
  if (features.rank() != 3 || image.rank() != 3 || features[1] < 1 || image[1] % features[1] != 0) {
    usage_fail("no decoder from features " + features.str() + " to images " + image.str(),
               "decoder", "choose a split point whose feature is a map that divides the image");
  }
  auto net = std::make_shared<Sequential>();
  int64_t inside = width;
  auto conv = [&](int64_t in) {
    net->push(std::make_shared<Conv2d>(in, inside, 3, ConvSpec{1, 1}, false, rng));
    net->push(std::make_shared<BatchNorm>(inside, true));
  };
  conv(features[0]);
  int64_t size = features[1];
  for (; size * 2 <= image[1]; size *= 2) {
    const int64_t next = std::max(inside / 2, std::min<int64_t>(inside, kNarrowest));
    net->push(std::make_shared<ConvTranspose2d>(inside, next, 4, ConvSpec{2, 1}, 0, false, rng));
    net->push(std::make_shared<BatchNorm>(next, true));
    inside = next;
  }
  if (size != image[1]) {
    usage_fail("images of " + image.str() + " are not a power of two larger than features " +
                   features.str(),
               "decoder");
  }
  conv(inside);
  net->push(std::make_shared<Conv2d>(inside, image[0], 3, ConvSpec{1, 1}, true, rng));
  net->push(std::make_shared<Activation>(UnaryOp::kSigmoid));
  return net;
}

}  // namespace ens
