// SPDX-License-Identifier: Apache-2.0
// Can the server tell that two tokens are the same word? Nothing is learned: the distance of the
// two vectors after PE, which is public, and the mean of each place are subtracted.
#include <cmath>

#include "attacks/text/codes.h"
#include "attacks/text/registry.h"

namespace ens {
namespace {

class Equality : public TextAttackOn<ObservedTextView> {
 public:
  std::string name() const override { return "equality"; }
  std::string title() const override { return "same word or not"; }

  std::vector<TextReading> run_on(const ObservedTextView& view, const AttackContext&) override {
    const int64_t width = view.observed.at(0).dim(1);
    std::vector<std::vector<double>> means;
    std::vector<double> counts;
    for (const Tensor& sentence : view.observed) {
      for (int64_t p = 0; p < sentence.dim(0); ++p) {
        if (p == std::ssize(means)) {
          means.emplace_back(static_cast<size_t>(width));
          counts.push_back(0);
        }
        ++counts[static_cast<size_t>(p)];
        for (int64_t d = 0; d < width; ++d) {
          means[static_cast<size_t>(p)][static_cast<size_t>(d)] +=
              sentence.data<float>()[p * width + d];
        }
      }
    }
    // A place that few sentences have has no mean of its own to speak of.
    constexpr double kEnough = 30;
    const auto rows = std::make_shared<std::vector<Tensor>>();
    for (int64_t s = 0; s < view.scored; ++s) {
      Tensor rest = without_positions(view.observed[static_cast<size_t>(s)]).clone();
      const Tensor places = without_positions(Tensor::zeros(rest.shape()));
      for (int64_t p = 0; p < rest.dim(0); ++p) {
        const double n = counts[static_cast<size_t>(p)];
        if (n < kEnough) continue;
        for (int64_t d = 0; d < width; ++d) {
          rest.data<float>()[p * width + d] -=
              static_cast<float>(means[static_cast<size_t>(p)][static_cast<size_t>(d)] / n) +
              places.data<float>()[p * width + d];
        }
      }
      rows->push_back(rest);
    }
    TextReading reading;
    reading.same = [rows, width](std::pair<size_t, size_t> a, std::pair<size_t, size_t> b) {
      const float* x = (*rows)[a.first].data<float>() + static_cast<int64_t>(a.second) * width;
      const float* y = (*rows)[b.first].data<float>() + static_cast<int64_t>(b.second) * width;
      double distance = 0;
      for (int64_t d = 0; d < width; ++d) {
        distance += std::pow(static_cast<double>(x[d]) - static_cast<double>(y[d]), 2);
      }
      return -distance;
    };
    return {reading};
  }
};

}  // namespace

std::unique_ptr<TextAttack> text_equality_attack() { return std::make_unique<Equality>(); }

}  // namespace ens
