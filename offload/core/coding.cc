// SPDX-License-Identifier: Apache-2.0
#include "offload/core/coding.h"

#include <string>

#include "base/error.h"

namespace ens {

LagrangeCode::LagrangeCode(const Field& field, int inputs, int noises, int shares)
    : field_(field), inputs_(inputs), noises_(noises), shares_(shares) {
  if (inputs < 1 || noises < 0 || shares < inputs + noises) {
    usage_fail(std::to_string(shares) + " shares do not carry " + std::to_string(inputs) +
                   " inputs and " + std::to_string(noises) + " noises",
               "coding", "there are at least as many shares as inputs and noises");
  }
  if (int64_t{inputs} + shares > int64_t{field.prime()}) {
    usage_fail("the field has fewer elements than there are inputs and shares", "coding");
  }
  std::vector<uint32_t> points;
  for (int k = 0; k < inputs; ++k) points.push_back(input_point(k));
  for (int t = 0; t < noises; ++t) points.push_back(share_point(t));
  for (int j = 0; j < shares; ++j) encoding_.push_back(lagrange(points, share_point(j)));
}

std::span<const uint32_t> LagrangeCode::encoding(int share) const {
  return encoding_.at(static_cast<size_t>(share));
}

std::vector<std::vector<uint32_t>> LagrangeCode::decoding(std::span<const int> shares) const {
  if (static_cast<int>(shares.size()) != needed()) {
    fail(std::to_string(shares.size()) + " shares where " + std::to_string(needed()) + " decode",
         "coding");
  }
  std::vector<uint32_t> points;
  for (const int j : shares) points.push_back(share_point(j));
  std::vector<std::vector<uint32_t>> rows;
  for (int k = 0; k < inputs_; ++k) rows.push_back(lagrange(points, input_point(k)));
  return rows;
}

std::vector<uint32_t> LagrangeCode::lagrange(std::span<const uint32_t> points, uint32_t x) const {
  std::vector<uint32_t> values;
  for (const uint32_t point : points) {
    uint32_t above = 1, below = 1;
    for (const uint32_t other : points) {
      if (other == point) continue;
      above = field_.mul(above, field_.sub(x, other));
      below = field_.mul(below, field_.sub(point, other));
    }
    values.push_back(field_.mul(above, field_.inverse(below)));
  }
  return values;
}

}  // namespace ens
