// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/grant.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <set>

#include "attacks/core/pair_counts.h"
#include "base/error.h"
#include "base/parallel.h"
#include "nn/core/rng.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"

namespace ens {

void grant(const SplitVictim& victim, const AttackContext&, ServerView& view) {
  view.model = victim.model;
  view.split = victim.split;
  view.bodies = victim.bodies;
  view.public_data = victim.public_data;
  view.scored_images = victim.observed.dim(0);
  view.channel = victim.channel;
}

void grant(const SplitVictim& victim, const AttackContext& context, LabelView& view) {
  grant(victim, context, static_cast<ServerView&>(view));
  view.labels = victim.labels;
}

void grant(const SplitVictim& victim, const AttackContext& context, NearestView& view) {
  grant(victim, context, static_cast<ServerView&>(view));
  if (victim.nearest) view.nearest = victim.nearest();
}

void grant(const SplitVictim& victim, const AttackContext& context, QueryFreeView& view) {
  grant(victim, context, static_cast<ServerView&>(view));
  view.observed = victim.observed;
}

void grant(const SplitVictim& victim, const AttackContext& context, TrafficView& view) {
  grant(victim, context, static_cast<QueryFreeView&>(view));
  if (victim.traffic) view.traffic = victim.traffic();
}

void grant(const SplitVictim& victim, const AttackContext& context, SubsetView& view) {
  grant(victim, context, static_cast<QueryFreeView&>(view));
  view.subset = victim.subset;
}

void grant(const SplitVictim& victim, const AttackContext& context, KnownPairsView& view) {
  grant(victim, context, static_cast<QueryFreeView&>(view));
  const std::vector<int64_t> counts = pair_counts(context.settings, victim.public_data->count());
  if (counts.empty()) return;
  const int64_t pairs = counts.back();
  view.pair_images = images_of(*victim.public_data, 0, pairs);
  view.pair_features = victim.send(view.pair_images);
}

void grant(const SplitVictim& victim, const AttackContext& context, BlackBoxView& view) {
  grant(victim, context, static_cast<QueryFreeView&>(view));
  view.query = victim.send;
  view.mean_query = victim.send_mean;
  view.recorded = victim.recorded;
  const bool all = context.settings.tier() == "full";
  view.query_data = all ? victim.training_data() : victim.public_data;
}

void grant(const SplitVictim& victim, const AttackContext& context, WhiteBoxView& view) {
  grant(victim, context, static_cast<QueryFreeView&>(view));
  view.head = victim.head;
  view.protect = victim.protect;
}

void grant(const SplitVictim& victim, const AttackContext& context, RepetitionView& view) {
  grant(victim, context, static_cast<BlackBoxView&>(view));
  if (victim.send_from_device) view.query = victim.send_from_device;
  if (!victim.resend) return;
  view.resend = [resend = victim.resend, change = context.settings.repetition().change(),
                 seed = Rng(context.seed, "the client's copies").next()](int64_t copy) {
    return resend([&](const Tensor& images) { return changed_copy(images, change, copy, seed); });
  };
}

Tensor changed_copy(const Tensor& images, const std::string& change, int64_t copy, uint64_t seed) {
  if (change == "same") return images;
  if (change == "jpeg") return as_jpeg(images, 90);
  Rng rng(seed, static_cast<uint64_t>(copy));
  const Tensor from = images.to(Device{}).plain();
  Tensor to = Tensor::empty(from.shape());
  const int64_t channels = from.dim(1), h = from.dim(2), w = from.dim(3);
  for (int64_t i = 0; i < from.dim(0); ++i) {
    const bool shift = change == "shift", mirror = change == "mirror" && rng.below(2) == 1;
    const int64_t down = shift ? static_cast<int64_t>(rng.below(3)) - 1 : 0;
    const int64_t right = shift ? static_cast<int64_t>(rng.below(3)) - 1 : 0;
    for (int64_t c = 0; c < channels; ++c) {
      const float* source = from.data<float>() + (i * channels + c) * h * w;
      float* target = to.data<float>() + (i * channels + c) * h * w;
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < w; ++x) {  // what is shifted in repeats the edge
          const int64_t row = std::clamp<int64_t>(y - down, 0, h - 1);
          const int64_t column = mirror ? w - 1 - x : std::clamp<int64_t>(x - right, 0, w - 1);
          target[y * w + x] = source[row * w + column];
        }
      }
    }
  }
  if (change == "noise") {
    for (float& pixel : to.span<float>()) {
      pixel = std::clamp(pixel + static_cast<float>(rng.normal() / 255), 0.0f, 1.0f);
    }
  }
  return to.to(images.device());
}

std::vector<int64_t> pair_counts(const AttackConfig& settings, int64_t available) {
  constexpr std::array<int64_t, 5> kDefault = {1, 10, 100, 1000, 10000};
  return pair_counts(settings, available, kDefault);
}

std::vector<int64_t> nearest_images(const Dataset& images, const Dataset& among) {
  std::vector<int64_t> nearest(static_cast<size_t>(images.count()));
  const int64_t size = images.image_size();
  run_parallel(static_cast<int>(images.count()), 0, [&](int i) {
    const uint8_t* a = images.pixels.data() + i * size;
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t j = 0; j < among.count(); ++j) {
      const uint8_t* b = among.pixels.data() + j * size;
      int64_t sum = 0;
      for (int64_t start = 0; start < size && sum < least; start += 256) {
        int32_t part = 0;
        for (int64_t p = start; p < std::min(size, start + 256); ++p) {
          part += (a[p] - b[p]) * (a[p] - b[p]);
        }
        sum += part;
      }
      if (sum < least) least = sum, nearest[static_cast<size_t>(i)] = j;
    }
  });
  return nearest;
}

ImageRoles divide_images(const Dataset& pool, const Dataset& test, const AttackConfig& settings,
                         uint64_t seed) {
  std::vector<int64_t> scored, rest;
  std::set<int32_t> seen;
  for (int64_t i = 0; i < test.count(); ++i) {
    const bool wanted =
        std::ssize(scored) < settings.scored_images() &&
        (!settings.one_per_class() || seen.insert(test.labels[static_cast<size_t>(i)]).second);
    (wanted ? scored : rest).push_back(i);
  }
  rest.resize(
      static_cast<size_t>(std::min<int64_t>(std::ssize(rest), settings.observed_features())));
  Rng rng(seed, "attacker's public images");
  return {pool.draw(settings.public_images(), rng), test.pick(scored), test.pick(rest), scored};
}

}  // namespace ens
