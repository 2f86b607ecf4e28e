// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/protection.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "ensemble/protect/step.h"

namespace ens {

namespace {

struct StepKind {
  const char* name;
  std::unique_ptr<FeatureStep> (*make)(const Tensor& values);
};

constexpr StepKind kSteps[] = {
#define STEP(name) {#name, make_step_##name},
#define PROTECTION(...)
#define FEATURE_PROTECTION(kind, ...) STEP(kind)
#include "ensemble/protect/steps.inc"
#include "proto/protections.inc"
#undef FEATURE_PROTECTION
#undef PROTECTION
#undef STEP
};

const StepKind* find_kind(const std::string& name) {
  const auto found = std::ranges::find(kSteps, name, &StepKind::name);
  return found == std::end(kSteps) ? nullptr : found;
}

class Chain : public Protection {
 public:
  explicit Chain(const ProtectionSpec& spec) {
    for (const ProtectionStep& step : spec) {
      steps_.push_back(make_step(step));
      draws_ |= draws_anew(*steps_.back());
    }
  }

  using Protection::apply;
  void apply(Tensor& features, std::span<const Seed> seeds) const override {
    Draws draws = draws_ ? Draws::secret(seeds) : Draws();
    for (const auto& step : steps_) step->apply(features, draws);
  }

 private:
  std::vector<std::unique_ptr<FeatureStep>> steps_;
  bool draws_ = false;
};

}  // namespace

const Tensor* find_values(const ProtectionSpec& spec, const std::string& name) {
  const auto found = std::ranges::find(spec, name, &ProtectionStep::name);
  return found == spec.end() ? nullptr : &found->values;
}

bool is_known_step(const std::string& name) { return find_kind(name) != nullptr; }

bool draws_anew(const FeatureStep& step) {
  using Form = FeatureStep::Form;
  return step.form() == Form::kAdd || step.form() == Form::kScale ||
         step.form() == Form::kNormalise;
}

std::unique_ptr<FeatureStep> make_step(const ProtectionStep& step) {
  const StepKind* kind = find_kind(step.name);
  if (!kind) usage_fail("this version has no step '" + step.name + "'", "protection");
  return kind->make(step.values);
}

std::unique_ptr<Protection> make_protection(const ProtectionSpec& spec) {
  return std::make_unique<Chain>(spec);
}

void check(const ProtectionSpec& spec, const Shape& feature) {
  for (const ProtectionStep& step : spec) {
    const auto made = make_step(step);
    if (!made->fits(feature)) {
      usage_fail("the step '" + step.name + "' does not fit the head's output", "protection");
    }
    // A draw in front of keyed noise would show through it: the noise stays when the draw changes.
    if (made->form() == FeatureStep::Form::kNormalise && spec.size() > 1) {
      usage_fail("the step '" + step.name + "' must be the only one", "protection");
    }
  }
}

Tensor finite_values(const Tensor& values, const char* step) {
  const auto require = [&](bool ok, const char* problem) {
    if (!ok) usage_fail(std::string("the step '") + step + "' " + problem, "protection");
  };
  require(values.defined() && values.dtype() == Dtype::kF32, "is not float32");
  Tensor plain = values.to(Device{}).plain();
  require(std::ranges::all_of(plain.span<float>(), [](float v) { return std::isfinite(v); }),
          "holds something that is no number");
  return plain;
}

float one_value(const Tensor& values, const char* step, float low, float high) {
  const Tensor plain = finite_values(values, step);
  const float value = plain.numel() == 1 ? plain.item() : low - 1;
  if (!(value >= low && value <= high)) {
    usage_fail(std::string("the step '") + step + "' has an impossible value", "protection");
  }
  return value;
}

namespace {

Tensor mean_of_bank(const Tensor& values) {
  const Tensor bank = values.plain();
  const int64_t count = bank.dim(0), size = bank.numel() / count;
  std::vector<double> sums(static_cast<size_t>(size));
  for (int64_t k = 0; k < count; ++k) {
    const float* one = bank.data<float>() + k * size;
    for (int64_t i = 0; i < size; ++i) sums[static_cast<size_t>(i)] += one[i];
  }
  Tensor mean = Tensor::empty(Shape(bank.shape().dims().subspan(1)));
  std::ranges::transform(sums, mean.data<float>(), [count](double sum) {
    return static_cast<float>(sum / static_cast<double>(count));
  });
  return mean;
}

}  // namespace

Tensor mean_noise(const ProtectionSpec& spec) {
  if (const Tensor* noise = find_values(spec, "fixed_noise")) return *noise;
  const Tensor* noises = find_values(spec, "noise_bank");
  return noises ? mean_of_bank(*noises) : Tensor();
}

Tensor mean_factor(const ProtectionSpec& spec) {
  const Tensor* factors = find_values(spec, "factor_bank");
  return factors ? mean_of_bank(*factors) : Tensor();
}

}  // namespace ens
