// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/transform.h"

#include <openssl/crypto.h>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {

FreshRandomness::FreshRandomness() : FreshRandomness(secure_seed()) {}

FreshRandomness::FreshRandomness(const Seed& seed) : seed_(seed), stream_(seed_) {}

FreshRandomness::~FreshRandomness() { OPENSSL_cleanse(seed_.data(), seed_.size()); }

Seed FreshRandomness::next() {
  Seed seed;
  stream_.fill(seed);
  return seed;
}

void check_images(const Tensor& images, const ImageShape& image) {
  if (images.rank() != 4 || !(Shape(images.shape().dims().subspan(1)) == image.shape())) {
    usage_fail("these are images " + images.shape().str() + ", and [B, C, H, W] of " +
                   image.shape().str() + " are needed",
               "disguise", "use images of the size and the channels that the key was made for");
  }
  if (images.dtype() != Dtype::kF32 || images.layout() != Layout::kPlain ||
      !(images.device() == Device{})) {
    fail("images must be float32, plain, on the CPU", "disguise");
  }
}

}  // namespace ens
