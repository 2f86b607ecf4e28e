// SPDX-License-Identifier: Apache-2.0
// Which tokens of the traffic are the same: a number for each vector, equal where the word seems to
// be. This is all that a substitution cipher hides behind.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

struct TextCodes {
  std::vector<std::vector<int32_t>> sentences;  // a code for each vector
  int32_t count = 0;                            // codes are 0 to count - 1
  double sigma = 0;  // of fresh noise, estimated from the begin symbol, which every sentence has
};

// `sent`: sentences [L,D] as the server received them. PE, which is public, is subtracted. Where
// the begin symbol is the same in all sentences, equal vectors of a place are one code, and places
// whose noises differ are joined by the one shift that makes many of their vectors meet; else
// vectors are gathered around centres by the noise's size.
TextCodes find_codes(const std::vector<Tensor>& sent);

// The vectors of a sentence without PE, [L,D] on the CPU.
Tensor without_positions(const Tensor& sentence);

}  // namespace ens
