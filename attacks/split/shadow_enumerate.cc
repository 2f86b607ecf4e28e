// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/shadow_enumerate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>

#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"
#include "base/error.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

constexpr int64_t kMostSubsets = 100000;

int64_t choose(int n, int k) {
  double result = 1;  // exact far beyond kMostSubsets
  for (int i = 1; i <= k; ++i) result = result * (n - k + i) / i;
  return static_cast<int64_t>(std::min(result, 1e15));
}

// The sizes to try, ascending, each once.
std::set<int> checked_sizes(int n, const std::vector<int>& sizes) {
  std::set<int> wanted(sizes.begin(), sizes.end());
  if (wanted.empty()) {
    for (int size = 1; size <= n; ++size) wanted.insert(size);
  }
  int64_t count = 0;
  for (int size : wanted) {
    if (size < 1 || size > n) {
      usage_fail(
          "no subset of " + std::to_string(n) + " server nets has size " + std::to_string(size),
          "attack.shadow_enumerate.sizes", "use 1 to " + std::to_string(n));
    }
    count += choose(n, size);
  }
  if (count > kMostSubsets) {
    usage_fail("there are over " + std::to_string(kMostSubsets) + " subsets of " +
                   std::to_string(n) + " server nets",
               "attack.shadow_enumerate.sizes", "name one size or a few");
  }
  return wanted;
}

// How many images each subset of the cheap round trains on.
int64_t screened_images(const AttackConfig& settings, int64_t train) {
  return std::min<int64_t>(settings.shadow_enumerate().screen_images(), train);
}

// The cheap round's data. Differences between subsets are small, so it is judged on more than the
// held-out images: also on training images that it leaves unused, half as many as it trains on.
PublicSplit screening_data(const PublicSplit& data, const AttackConfig& settings) {
  const int64_t train = screened_images(settings, data.train.count());
  PublicSplit screen{data.train.head(train), data.held_out};
  const int64_t judged = std::min(data.train.count() - train, train / 2);
  const Dataset more = [&] {
    std::vector<int64_t> unused(static_cast<size_t>(judged));
    std::iota(unused.begin(), unused.end(), train);
    return data.train.pick(unused);
  }();
  Dataset& held = screen.held_out;
  held.pixels.insert(held.pixels.end(), more.pixels.begin(), more.pixels.end());
  held.labels.insert(held.labels.end(), more.labels.begin(), more.labels.end());
  return screen;
}

// The setting's sizes; empty: all.
std::vector<int> sizes_of(const AttackConfig& settings) {
  const auto& sizes = settings.shadow_enumerate().sizes();
  return {sizes.begin(), sizes.end()};
}

class ShadowEnumerate : public AttackOn<QueryFreeView> {
 public:
  std::string name() const override { return "shadow-enumerate"; }
  std::string title() const override { return "shadow + decoder, subsets enumerated"; }
  bool trains_through_bodies() const override { return true; }
  std::string not_applicable_reason(const SplitSetting& setting) const override {
    return one_net_only(setting);
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int n = setting.nets;
    int64_t subsets = 0, passes = 0;
    for (int size : checked_sizes(n, sizes_of(settings))) {
      subsets += choose(n, size);
      passes += choose(n, size) * size;
    }
    const ShadowEnumerateConfig& own = settings.shadow_enumerate();
    const int64_t train = training_images(setting);
    const int64_t kept = std::min<int64_t>(own.keep(), subsets);
    // Which subsets get the full round is not known yet: of the mean size.
    AttackCost cost = shadow_cost(setting, settings, kept * passes / subsets,
                                  decoded_candidates(settings, static_cast<int>(kept)));
    cost.nets += n * shadow_passes(settings, train) +
                 passes * own.screen_epochs() * screened_images(settings, train);
    return cost;
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    const PublicSplit data = split_public(*view.public_data);
    const auto subsets =
        enumerate_subsets(static_cast<int>(view.bodies.size()), sizes_of(context.settings));
    const PublicSplit screen = screening_data(data, context.settings);
    // All start from one head that suits all nets together. From random weights of its own each
    // would end in a better or a worse optimum by chance, which hides what the subset is worth.
    std::vector<int> nets_of_all(view.bodies.size());
    std::iota(nets_of_all.begin(), nets_of_all.end(), 0);
    const TrainedShadow common = train_shadow(view, context, data, nets_of_all, true, "all nets");
    AttackContext screening = context;
    screening.settings.mutable_shadow()->set_epochs(
        context.settings.shadow_enumerate().screen_epochs());
    std::vector<double> scores(subsets.size());
    run_parallel(
        static_cast<int>(subsets.size()), 0,
        [&](int i) {
          const std::vector<int>& nets = subsets[static_cast<size_t>(i)];
          scores[static_cast<size_t>(i)] =
              -train_shadow(view, screening, screen, nets, false, subset_name(nets), &common)
                   .cross_entropy;
        },
        context.device);
    const std::vector<size_t> kept = best_of(scores, context.settings.shadow_enumerate().keep());
    std::vector<std::vector<int>> best;
    for (size_t i : kept) best.push_back(subsets[i]);
    return shadow_reconstructions(view, context, data, best);
  }
};

}  // namespace

std::vector<std::vector<int>> enumerate_subsets(int n, const std::vector<int>& sizes) {
  std::vector<std::vector<int>> all;
  for (int size : checked_sizes(n, sizes)) {
    std::vector<int> subset(static_cast<size_t>(size));
    std::iota(subset.begin(), subset.end(), 0);
    while (true) {
      all.push_back(subset);
      // The last member that can still grow grows, and those after it follow on.
      int i = size - 1;
      while (i >= 0 && subset[static_cast<size_t>(i)] == n - size + i) --i;
      if (i < 0) break;
      std::iota(subset.begin() + i, subset.end(), subset[static_cast<size_t>(i)] + 1);
    }
  }
  return all;
}

std::unique_ptr<SplitAttack> shadow_enumerate_attack() {
  return std::make_unique<ShadowEnumerate>();
}

}  // namespace ens
