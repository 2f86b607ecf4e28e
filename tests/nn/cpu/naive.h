// SPDX-License-Identifier: Apache-2.0
// What the CPU backend's tests compare with: values in double, row-major, and plain loops.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "nn/core/backend.h"
#include "nn/core/rng.h"

namespace ens {

using Values = std::vector<double>;

inline Backend& cpu_backend() { return backend({}); }

inline Values values(const Tensor& t) {
  const auto v = t.to_vector();
  return {v.begin(), v.end()};
}

inline bool layout_fits(const Shape& shape, Layout layout) {
  if (layout == Layout::kPlain) return true;
  if (shape.rank() != 4) return false;
  if (layout == Layout::kBlocked8) return shape[1] % 8 == 0;
  if (layout == Layout::kBlocked16) return shape[1] % 16 == 0;
  return true;
}

inline const std::vector<Layout>& all_layouts() {
  static const std::vector<Layout> layouts{Layout::kPlain, Layout::kChannelsLast, Layout::kBlocked8,
                                           Layout::kBlocked16};
  return layouts;
}

// Normal numbers, the same for the same seed, exactly representable in `dtype`.
inline Tensor random_tensor(const Shape& shape, uint64_t seed, Dtype dtype = Dtype::kF32,
                            Layout layout = Layout::kPlain, float mean = 0, float deviation = 1) {
  Tensor t = Tensor::empty(shape);
  Rng(seed).fill_normal(t.span<float>(), mean, deviation);
  if (dtype == Dtype::kBF16) {
    for (float& v : t.span<float>()) v = static_cast<float>(BFloat16(v));
  }
  return t.to(dtype).with_layout(layout_fits(shape, layout) ? layout : Layout::kPlain);
}

// Largest difference, relative to the largest wanted magnitude.
inline void expect_near(const Tensor& got, const Values& want, double tolerance,
                        const std::string& what = "") {
  const Values v = values(got);
  ASSERT_EQ(v.size(), want.size()) << what;
  double scale = 1e-6, worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    scale = std::max(scale, std::abs(want[i]));
    const double difference = std::isfinite(v[i]) ? std::abs(v[i] - want[i]) : INFINITY;
    if (difference > worst) {
      worst = difference;
      where = i;
    }
  }
  EXPECT_LE(worst / scale, tolerance)
      << what << " at " << where << ": " << v[where] << ", wanted " << want[where];
}

// Of results rounded once to dtype, and sums in float32.
inline double tolerance_of(Dtype dtype) { return dtype == Dtype::kBF16 ? 1.2e-2 : 2e-5; }

inline int64_t at(const Shape& s, int64_t n, int64_t c, int64_t h, int64_t w) {
  return ((n * s[1] + c) * s[2] + h) * s[3] + w;
}

}  // namespace ens
