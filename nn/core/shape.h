// SPDX-License-Identifier: Apache-2.0
// The sizes of a tensor's dimensions, outermost first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace ens {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;  // rank 0: a scalar, one element
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const;  // axis may be negative: -1 is the last
  void set(int axis, int64_t size);    // likewise
  int64_t numel() const;               // product of the sizes; checked for overflow
  std::string str() const;             // "[8, 3, 32, 32]"
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  bool operator==(const Shape& other) const;

 private:
  int resolve(int axis) const;
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// So many of `one`, along a new first axis: batched(8, [3, 32, 32]) is [8, 3, 32, 32].
Shape batched(int64_t count, const Shape& one);

}  // namespace ens
