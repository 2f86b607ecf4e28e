// SPDX-License-Identifier: Apache-2.0
// Random numbers by the block, for protections and their training (internal to this folder).
#pragma once

#include <span>

#include "base/key_stream.h"
#include "nn/core/rng.h"

namespace ens {

// What one batch draws from.
class Draws {
 public:
  Draws() = default;                           // for what draws nothing
  explicit Draws(Rng stream) : rng(stream) {}  // in training
  // In use: nobody can predict it, because it comes from the operating system's cryptographic
  // source; but for the seeds, if there is one for each image. They must outlive it.
  static Draws secret(std::span<const Seed> seeds);

  // Of the noise of the batch's image number `image`.
  Seed seed(int64_t image);
  Rng rng;

 private:
  std::span<const Seed> seeds_;
  bool secret_ = false;
};

namespace draws {

// Adds N(0, sigma^2) to each value: Box-Muller in float32, both numbers of a pair used, the tails
// reaching 6.7 sigma.
void add_normal(Rng& rng, std::span<float> values, float sigma);
void add_normal(KeyStream stream, std::span<float> values);  // sigma 1

// Multiplies each value by 0 with probability p, else by 1/(1-p); 0 <= p < 1.
void drop(Rng& rng, std::span<float> values, float p);

}  // namespace draws
}  // namespace ens
