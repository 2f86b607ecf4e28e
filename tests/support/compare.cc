// SPDX-License-Identifier: Apache-2.0
#include "tests/support/compare.h"

#include <cmath>
#include <random>

namespace ens::test {

using naive::Array;

testing::AssertionResult near(const Array& got, const Array& want, double tolerance) {
  if (!(got.shape == want.shape)) {
    return testing::AssertionFailure()
           << "shape " << got.shape.str() << ", expected " << want.shape.str();
  }
  double squares = 0;
  for (double w : want.v) squares += w * w;
  const double rms = want.v.empty() ? 0 : std::sqrt(squares / static_cast<double>(want.size()));
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double allowed = tolerance * (std::fabs(want.v[i]) + rms) + 1e-12;
    const double excess = std::fabs(got.v[i] - want.v[i]) / allowed;
    if (!(excess <= worst)) {  // NaN counts as the worst
      worst = excess;
      where = i;
      if (std::isnan(excess)) break;
    }
  }
  if (worst <= 1) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "element " << where << " of " << want.shape.str() << " is " << got.v[where]
         << ", expected " << want.v[where] << ": " << worst << " times the tolerance of "
         << tolerance << " (root mean square " << rms << ")";
}

testing::AssertionResult near(const Tensor& got, const Array& want, double tolerance) {
  if (!got.defined()) return testing::AssertionFailure() << "the tensor is undefined";
  return near(Array(got), want, tolerance);
}

testing::AssertionResult near(const Tensor& got, const Tensor& want, double tolerance) {
  if (!want.defined()) return testing::AssertionFailure() << "nothing to compare with";
  return near(got, Array(want), tolerance);
}

Array filled(const Shape& shape, Fill fill, uint32_t seed) {
  Array a(shape);
  std::mt19937 random(seed);
  auto uniform01 = [&] { return static_cast<double>(random()) / 4294967296.0; };
  for (size_t i = 0; i < a.size(); ++i) {
    double value = 0;
    switch (fill) {
      case Fill::kUniform:
        value = 2 * uniform01() - 1;
        break;
      case Fill::kPositive:
        value = 0.5 + 1.5 * uniform01();
        break;
      case Fill::kAwayFromZero: {
        value = 2 * uniform01() - 1;
        value += value < 0 ? -0.2 : 0.2;
        break;
      }
      // 251 is prime, so i * m mod 251 visits every value before it repeats one.
      case Fill::kSpread:
        value = (static_cast<double>(i * 83 % 251) - 125) / 64;
        break;
      case Fill::kSpreadOdd:
        value = (static_cast<double>(i * 59 % 251) - 125) / 64 + 1 / 128.0;
    }
    a.v[i] = static_cast<float>(value);
  }
  return a;
}

Tensor uniform(const Shape& shape, uint32_t seed) {
  return filled(shape, Fill::kUniform, seed).tensor();
}

void backward_with(const Var& y, const Tensor& dy) {
  Var::make(Tensor::zeros({1}), {y}, [y, dy](const Tensor&) { y.accumulate(dy); }).backward();
}

}  // namespace ens::test
