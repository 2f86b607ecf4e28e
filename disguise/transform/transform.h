// SPDX-License-Identifier: Apache-2.0
// Transform: what a method of disguised training does to images, with all its parameters given.
// Whose they are does not matter here: the owner's come from her key (disguise/key), an attacker
// has parameters of its own making. One file a method, listed in proto/disguises.inc: baselines.h,
// rmt.h, aes.h.
#pragma once

#include <memory>

#include "base/key_stream.h"
#include "nn/core/tensor.h"

namespace ens {

struct ImageShape {
  int channels = 0, height = 0, width = 0;
  bool operator==(const ImageShape&) const = default;
  Shape shape() const { return {channels, height, width}; }
};

// The randomness that every image gets anew: noise and nonces. Never made from a master key, and
// forgotten when dropped. Gives seeds, each the key of one stream (SecretRng in base/secret_rng.h).
// One thread at a time.
class FreshRandomness {
 public:
  FreshRandomness();  // of the operating system's random source
  explicit FreshRandomness(
      const Seed& seed);  // repeatable: whoever has the seed can take the noise away again
  ~FreshRandomness();
  FreshRandomness(const FreshRandomness&) = delete;
  FreshRandomness& operator=(const FreshRandomness&) = delete;

  Seed next();

 private:
  Seed seed_;
  KeyStream stream_;
};

// Immutable; any number of threads may use one.
class Transform {
 public:
  virtual ~Transform() = default;
  // Of one disguised image: [C, H', W'], larger than the image where it is padded to whole blocks
  // or enlarged.
  virtual Shape output_shape() const = 0;
  // Whether what comes out are bytes, 0 to 255, which are stored as they are.
  virtual bool ciphertext() const { return false; }
  // images: float32 [B, C, H, W], 0 to 255, on the CPU. -> float32 [B, output_shape()], in pixels'
  // units. Takes one seed of `fresh` for every image, in their order. Error if the images have
  // another shape.
  virtual Tensor apply(const Tensor& images, FreshRandomness& fresh) const = 0;
};

// Error naming both shapes unless these are images [B, C, H, W] of this shape, float32 and plain on
// the CPU.
void check_images(const Tensor& images, const ImageShape& image);

}  // namespace ens
