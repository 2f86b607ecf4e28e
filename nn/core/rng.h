// SPDX-License-Identifier: Apache-2.0
// Reproducible random numbers, and secret ones.
//
// Rng is counter based: (seed, stream, counter) determine every value on every platform, so a
// checkpoint stores three integers and a data loader can jump to any image. Not for secrets.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/key_stream.h"

namespace ens {

class Rng {
 public:
  struct State {
    uint64_t key = 0;
    uint64_t counter = 0;
    bool operator==(const State&) const = default;
  };

  Rng() = default;
  // Different streams of one seed are independent sequences.
  explicit Rng(uint64_t seed, uint64_t stream = 0);
  Rng(uint64_t seed, std::string_view stream_name);
  // For building a network whose weights do not matter, because they are loaded next or only shapes
  // are asked for: fills leave the values as they are, so that memory nobody looks at stays
  // untouched (a device that holds only the head of a network could not afford all of it).
  static Rng blank();

  uint64_t next();             // 64 uniform bits
  double uniform();            // [0, 1)
  uint64_t below(uint64_t n);  // [0, n), n >= 1, unbiased
  double normal();             // N(0, 1)
  void fill_normal(std::span<float> out, float mean, float stddev);
  void fill_uniform(std::span<float> out, float low, float high);
  std::vector<int64_t> permutation(int64_t n);  // Fisher-Yates

  State state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  State state_;
  bool blank_ = false;
};

// 64 bits, or a seed, from the operating system's cryptographic source (getrandom). For secrets:
// the selector, the client's noise. Throws Error if the system has none.
uint64_t secure_random();
Seed secure_seed();

}  // namespace ens
