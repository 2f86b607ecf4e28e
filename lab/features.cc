// SPDX-License-Identifier: Apache-2.0
#include "lab/features.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unordered_map>

#include "attacks/core/evaluator.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/strings.h"
#include "ensemble/model/precision.h"
#include "lab/results.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

void check_finite(const Tensor& t, const char* name) {
  if (!std::ranges::all_of(t.span<float>(), [](float v) { return std::isfinite(v); })) {
    usage_fail("not all elements are finite", name);
  }
}

// Error unless `t` is [count, ...one].
void check_shape(const Tensor& t, int64_t count, const Shape& one, const char* name) {
  if (t.shape() == batched(count, one)) return;
  usage_fail("shape " + t.shape().str() + " where " + batched(count, one).str() + " is expected",
             name);
}

void check_images(const Dataset& images, const ModelSpec& model, const char* name) {
  if (images.count() == 0 || (images.channels == model.channels &&
                              images.height == model.image_size && images.width == images.height))
    return;
  usage_fail(
      fmt::format("images of {} x {} x {}, and the truth's are {} x {} x {}", images.channels,
                  images.height, images.width, model.channels, model.image_size, model.image_size),
      name);
}

Dataset joined(const Dataset& a, const Dataset& b) {
  if (a.count() == 0) return b;
  Dataset all = a;
  all.pixels.insert(all.pixels.end(), b.pixels.begin(), b.pixels.end());
  all.labels.insert(all.labels.end(), b.labels.begin(), b.labels.end());
  return all;
}

// The features of recorded images, found by their pixels.
class Table {
 public:
  Table(const Dataset& images, Tensor features)
      : features_(std::move(features)), size_(images.image_size()) {
    for (int64_t i = 0; i < images.count(); ++i) {
      const auto* pixels = reinterpret_cast<const char*>(images.pixels.data()) + i * size_;
      at_.emplace(std::string(pixels, static_cast<size_t>(size_)), i);
    }
  }

  Tensor operator()(const Tensor& images) const {
    const Tensor from = images.to(Device{}).to(Dtype::kF32).plain();
    Shape shape = features_.shape();
    shape.set(0, from.dim(0));
    Tensor out = Tensor::empty(shape);
    std::string key(static_cast<size_t>(size_), '\0');
    for (int64_t i = 0; i < from.dim(0); ++i) {
      const float* pixel = from.data<float>() + i * size_;
      for (char& c : key) c = static_cast<char>(std::lround(*pixel++ * 255));
      const auto found = at_.find(key);
      if (found == at_.end()) fail("an image without a recorded feature", "pairs");
      out.rows(i, 1).copy_from(features_.rows(found->second, 1));
    }
    return out;
  }

 private:
  const Tensor features_;
  const int64_t size_;
  std::unordered_map<std::string, int64_t> at_;
};

ModelSpec unknown_model(const RecordedFeatures& recorded) {
  const Tensor &z = recorded.observed, &x = recorded.truth;
  if (!x.defined() || x.rank() != 4 || x.dim(0) < 1 || x.dim(2) != x.dim(3)) {
    usage_fail("no square images", "truth", "give an array [M, channels, S, S]");
  }
  if (!z.defined() || z.rank() != 4 || z.dim(0) != x.dim(0) || z.dim(2) != z.dim(3)) {
    usage_fail((z.defined() ? "shape " + z.shape().str() : "no features"), "z",
               fmt::format("give maps [M, C, h, h] of the {} images in truth", x.dim(0)));
  }
  ModelSpec model;
  model.architecture = "unknown";
  model.width = 32;
  model.channels = static_cast<int>(x.dim(1));
  model.image_size = static_cast<int>(x.dim(2));
  model.sent_channels = static_cast<int>(z.dim(1));
  model.sent_size = static_cast<int>(z.dim(2));
  model.mean.assign(static_cast<size_t>(model.channels), 0.5f);
  model.stddev.assign(static_cast<size_t>(model.channels), 0.25f);
  check(model, Split{});
  return model;
}

}  // namespace

std::vector<std::string> feature_attacks() {
  return {"oracle",    "linear-decoder", "retrieval", "known-pairs",
          "alignment", "nearest-public", "mean-image"};
}

std::vector<FeatureAttack> attack_features(const RecordedFeatures& recorded,
                                           const std::vector<std::string>& attacks,
                                           const RunConfig& config) {
  const ModelSpec model = unknown_model(recorded);
  const Shape feature{model.sent_channels, model.sent_size, model.sent_size};
  check_finite(recorded.observed, "z");
  check_images(recorded.pairs, model, "pairs");
  check_images(recorded.public_images, model, "public");
  const int64_t pairs = recorded.pairs.count();
  if (pairs > 0) {
    if (!recorded.pair_features.defined()) usage_fail("no features", "pairs");
    check_shape(recorded.pair_features, pairs, feature, "pairs");
    check_finite(recorded.pair_features, "pairs");
  }
  const Dataset everything = joined(recorded.pairs, recorded.public_images);
  if (everything.count() == 0) {
    usage_fail("the attacker has no images", "public", "give public=images or pairs=(images, z)");
  }
  for (const std::string& name : attacks) {
    const auto known = feature_attacks();
    if (std::ranges::count(known, name) > 0) continue;
    make_attack(name);  // usage Error if there is none
    usage_fail("'" + name + "' needs the networks", "attacks",
               "of features alone there are " + join(known));
  }

  AttackContext context;
  context.settings = config.attack();
  context.device = parse_device(config.device());
  context.dtype = choose_dtype(config.dtype(), context.device);
  // Blind, and of what is not known the pairs come first.
  AttackConfig pair_settings = config.attack();
  pair_settings.mutable_known_pairs()->clear_counts();
  for (const int64_t m : pair_counts(config.attack(), pairs)) {
    pair_settings.mutable_known_pairs()->add_counts(m);
  }
  const Table table(recorded.pairs, recorded.pair_features);

  const auto victim_for = [&](const SplitAttack& attack) {
    SplitVictim v;
    v.model = model;
    v.observed = recorded.observed;
    v.traffic = [&recorded] { return recorded.observed; };
    const bool asks = attack.level() == KnowledgeLevel::kBlackBox;
    v.recorded = asks && !recorded.query;
    v.public_data = v.recorded ? &recorded.pairs : &everything;
    v.training_data = [data = v.public_data] { return data; };
    v.send =
        asks && recorded.query ? recorded.query : [&table](const Tensor& x) { return table(x); };
    v.nearest = [&] {
      Dataset truth;
      truth.channels = model.channels, truth.height = truth.width = model.image_size;
      for (const float pixel : recorded.truth.span<float>()) {
        truth.pixels.push_back(static_cast<uint8_t>(std::lround(pixel * 255)));
      }
      truth.labels.resize(static_cast<size_t>(recorded.truth.dim(0)));
      return nearest_images(truth, everything);
    };
    return v;
  };
  const auto lacks = [&](const SplitAttack& attack) -> std::string {
    if (attack.level() == KnowledgeLevel::kKnownPairs && pairs == 0) return "no pairs are given";
    if (attack.level() == KnowledgeLevel::kBlackBox && pairs == 0 && !recorded.query) {
      return "neither pairs nor a query are given";
    }
    return "";
  };

  int64_t images = 0;
  for (const std::string& name : attacks) {
    const auto attack = make_attack(name);
    if (!lacks(*attack).empty()) continue;
    SplitSetting setting;
    setting.model = model;
    setting.public_images = setting.training_images = victim_for(*attack).public_data->count();
    setting.scored_images = recorded.truth.dim(0);
    images += attack->cost(setting, config.attack()).images() * seeds_of(*attack, config.attack());
  }
  Progress progress(fmt::format("{} attack{}", attacks.size(), attacks.size() == 1 ? "" : "s"),
                    images);
  context.on_progress = [&](int64_t done, const std::string& note) {
    progress.add(done);
    if (!note.empty()) progress.note(note);
  };

  Evaluator evaluator(recorded.truth, metric_mode(config.attack()));
  const uint64_t first_seed = first_attack_seed(config);
  std::vector<int64_t> numbers(static_cast<size_t>(recorded.truth.dim(0)));
  std::iota(numbers.begin(), numbers.end(), 0);
  results::AttackResult::Floor floor;
  for (const char* name : {"nearest-public", "mean-image"}) {
    const auto attack = make_attack(name);
    const AttackScore score = evaluator.evaluate(
        *attack, first_seed, [&] { return attack->run(victim_for(*attack), context); });
    if (!floor.has_attack() || score.scores.ssim.mean > floor.ssim().mean()) fill(&floor, score);
  }
  std::vector<FeatureAttack> all;
  for (const std::string& name : attacks) {
    const auto attack = make_attack(name);
    FeatureAttack out;
    out.original = recorded.truth;
    if (const std::string reason = lacks(*attack); !reason.empty()) {
      out.result.set_pointless(reason);
    } else {
      try {
        context.settings =
            attack->level() == KnowledgeLevel::kKnownPairs ? pair_settings : config.attack();
        const SplitVictim victim = victim_for(*attack);
        std::vector<AttackScore> by_seed;
        for (int i = 0; i < seeds_of(*attack, config.attack()); ++i) {
          context.seed = first_seed + static_cast<uint64_t>(i);
          by_seed.push_back(evaluator.evaluate(*attack, first_seed,
                                               [&] { return attack->run(victim, context); }));
        }
        out.result = to_message(by_seed, first_seed, numbers);
        out.reconstruction = by_seed[middle_seed(by_seed)].reconstruction;
        if (attack->level() != KnowledgeLevel::kBlind) *out.result.mutable_floor() = floor;
      } catch (const Stopped&) {
        throw;
      } catch (const Error& e) {
        out.result.set_error(e.what());
      }
    }
    out.result.set_attack(attack->name());
    out.result.set_title(attack->title());
    out.result.set_level(ens::name(attack->level()));
    out.result.set_metric(config.attack().metric());
    out.result.set_tier(config.attack().tier());
    out.result.set_device(backend(context.device).description());
    out.result.set_dtype(ens::name(context.dtype));
    out.result.set_observed("given as arrays");
    all.push_back(std::move(out));
  }
  return all;
}

}  // namespace ens
