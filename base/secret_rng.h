// SPDX-License-Identifier: Apache-2.0
// Random numbers nobody can predict without the seed: what keys are derived from, and noise.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/key_stream.h"

namespace ens {

// The numbers of one seed's ChaCha20 stream; the same on every platform, but for the last bits of
// normal() and laplace(), which are the C library's. One thread at a time. Wiped when dropped.
class SecretRng {
 public:
  explicit SecretRng(const Seed& seed) : stream_(seed) {}
  ~SecretRng();
  SecretRng(const SecretRng&) = delete;
  SecretRng& operator=(const SecretRng&) = delete;

  uint64_t next();             // 64 uniform bits
  double uniform();            // [0, 1), of 53 bits
  double normal();             // N(0, 1): Box-Muller, both numbers of a pair are used
  double laplace();            // density exp(-|x|) / 2, variance 2
  uint64_t below(uint64_t n);  // [0, n), n >= 1, unbiased
  std::vector<int64_t> permutation(int64_t n);  // uniform: Fisher-Yates

 private:
  KeyStream stream_;
  std::array<uint64_t, 256> words_{};
  size_t used_ = words_.size();
  double second_ = 0;  // normal number of the last pair
  bool has_second_ = false;
};

}  // namespace ens
