// SPDX-License-Identifier: Apache-2.0
// Who has the client's embedding reads each token off as its nearest row.
#include <limits>

#include "attacks/text/codes.h"
#include "attacks/text/registry.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

class Nearest : public TextAttackOn<EmbeddingView> {
 public:
  std::string name() const override { return "nearest"; }
  std::string title() const override { return "nearest row of the embedding"; }

  std::vector<TextReading> run_on(const EmbeddingView& view, const AttackContext&) override {
    const int64_t words = view.table.dim(0), width = view.table.dim(1);
    std::vector<float> norms(static_cast<size_t>(words));
    for (int64_t w = 0; w < words; ++w) {
      for (int64_t d = 0; d < width; ++d) {
        const float v = view.table.data<float>()[w * width + d];
        norms[static_cast<size_t>(w)] += v * v;
      }
    }
    TextReading reading;
    for (int64_t s = 0; s < view.scored; ++s) {
      const Tensor x = without_positions(view.observed[static_cast<size_t>(s)]);
      Tensor products = Tensor::empty({x.dim(0), words});
      backend(Device{}).gemm(false, true, 1, x, view.table, 0, products);
      TokenTexts tokens;
      for (int64_t i = 0; i < x.dim(0); ++i) {
        int64_t best = 0;
        float least = std::numeric_limits<float>::infinity();
        for (int64_t w = 0; w < words; ++w) {
          const float distance =
              norms[static_cast<size_t>(w)] - 2 * products.data<float>()[i * words + w];
          if (distance < least) least = distance, best = w;
        }
        tokens.push_back(view.words[static_cast<size_t>(best)]);
      }
      reading.tokens.push_back(std::move(tokens));
    }
    return {reading};
  }
};

}  // namespace

std::unique_ptr<TextAttack> text_nearest_attack() { return std::make_unique<Nearest>(); }

}  // namespace ens
