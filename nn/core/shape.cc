// SPDX-License-Identifier: Apache-2.0
#include "nn/core/shape.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace ens {

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) {
  if (dims.size() > kMaxRank) fail("a tensor has at most 6 dimensions", "Shape");
  rank_ = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
  numel();  // checks
}

int Shape::resolve(int axis) const {
  const int a = axis < 0 ? axis + rank_ : axis;
  if (a < 0 || a >= rank_) fail("axis " + std::to_string(axis) + " is not in shape " + str());
  return a;
}

int64_t Shape::operator[](int axis) const { return dims_[resolve(axis)]; }

void Shape::set(int axis, int64_t size) {
  dims_[resolve(axis)] = size;
  numel();
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) {
    if (dims_[i] < 0 || __builtin_mul_overflow(n, dims_[i], &n)) {
      fail("impossible tensor shape " + str());
    }
  }
  return n;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(dims(), other.dims());
}

Shape batched(int64_t count, const Shape& one) {
  std::vector<int64_t> dims{count};
  dims.insert(dims.end(), one.dims().begin(), one.dims().end());
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace ens
