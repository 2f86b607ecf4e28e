// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/feature_train.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "ensemble/protect/draws.h"
#include "nn/autograd/ops.h"

namespace ens {

using Form = FeatureStep::Form;

Rng next_stream(uint64_t key, Tensor& calls) {
  const float count = calls.item();  // exact up to 2^24
  calls.fill(count + 1);
  return Rng(key, static_cast<uint64_t>(count));
}

namespace {

Tensor on_the_host(const Var& z) { return z.value().to(Device{}).to(Dtype::kF32).plain().clone(); }

// Each row scaled to that mean square, in float32.
Var normalised(const Var& features, double power) {
  const Var u = cast(features, Dtype::kF32);
  Shape one_each = u.shape();
  for (int axis = 1; axis < one_each.rank(); ++axis) one_each.set(axis, 1);
  const auto scale = static_cast<float>(std::sqrt(power));
  return affine(div(u, sqrt(affine(mean_to(square(u), one_each), 1, 1e-30f))), scale, 0);
}

// What apply() does beyond the scaling, its noise and its rounding, is a constant for the gradient.
Var channel(const FeatureStep& step, const Var& z, Draws& draws) {
  const Var mean = normalised(z, step.power());
  Tensor rest = on_the_host(z);
  step.apply(rest, draws);
  const Tensor scaled = on_the_host(mean);
  const auto from = scaled.span<float>();
  std::ranges::transform(rest.span<float>(), from, rest.data<float>(), std::minus<>());
  return cast(add(mean, Var(rest.to(z.value().device()))), z.value().dtype());
}

// Sets to zero what the step sets to zero; it is a constant for the gradient.
Var select(const FeatureStep& step, const Var& z, Draws& draws) {
  Tensor kept = on_the_host(z);
  step.apply(kept, draws);
  for (float& value : kept.span<float>()) value = value != 0 ? 1.0f : 0.0f;
  return mul(z, Var(kept.to(z.value().dtype()).to(z.value().device())));
}

}  // namespace

std::function<Var(const Var&)> mean_protection(const ProtectionSpec& spec) {
  const Tensor noise = mean_noise(spec), factor = mean_factor(spec);
  std::vector<std::shared_ptr<const FeatureStep>> others;
  for (const ProtectionStep& step : spec) {
    std::shared_ptr<const FeatureStep> made = make_step(step);
    if (made->form() == Form::kSelect || made->form() == Form::kNormalise) others.push_back(made);
  }
  if (!noise.defined() && !factor.defined() && others.empty()) return {};
  return [noise, factor, others](const Var& features) {
    Var z = features;
    const auto constant = [&](const Tensor& values) {
      Shape one = z.shape();
      one.set(0, 1);
      return Var(values.reshape(one).to(z.value().dtype()).to(z.value().device()));
    };
    if (factor.defined()) z = mul(z, constant(factor));
    if (noise.defined()) z = add(z, constant(noise));
    Draws none;  // a selection draws nothing
    for (const auto& step : others) {
      z = step->form() == Form::kSelect ? select(*step, z, none)
                                        : cast(normalised(z, step->power()), z.value().dtype());
    }
    return z;
  };
}

std::function<Var(const Var&, Rng*)> channel_map(const ProtectionSpec& spec) {
  for (const ProtectionStep& step : spec) {
    const std::shared_ptr<const FeatureStep> made = make_step(step);
    if (made->form() != Form::kNormalise) continue;
    return [made](const Var& features, Rng* noise) {
      if (!noise) return normalised(features, made->power());
      Draws draws(*noise);
      const Var z = channel(*made, cast(features, Dtype::kF32), draws);
      *noise = draws.rng;
      return z;
    };
  }
  return {};
}

bool draws_anew(const ProtectionSpec& spec) {
  return std::ranges::any_of(
      spec, [](const ProtectionStep& step) { return draws_anew(*make_step(step)); });
}

FeatureTraining::FeatureTraining(const ProtectionSpec& spec, uint64_t key)
    : spec_(spec), key_(key) {
  bool counts = false;
  for (const ProtectionStep& step : spec) {
    steps_.push_back(make_step(step));
    if (steps_.back()->form() == Form::kAddConstant) {
      noise_ = step.values;
      add_buffer("noise", noise_);
    } else {
      counts = true;
    }
  }
  if (counts) add_host_counter("calls", calls_);
}

ProtectionSpec FeatureTraining::spec() const {
  ProtectionSpec now = spec_;
  for (size_t i = 0; i < now.size(); ++i) {
    if (steps_[i]->form() == Form::kAddConstant) now[i].values = noise_.to(Device{});
  }
  return now;
}

void FeatureTraining::set_values(const std::string& step, const Tensor& values) {
  for (size_t i = 0; i < spec_.size(); ++i) {
    if (spec_[i].name == step) steps_[i] = make_step({step, values});
  }
}

Var FeatureTraining::forward(const Var& features) {
  const Shape& shape = features.shape();
  Shape one = shape;
  one.set(0, 1);
  const auto constant = [&](const Tensor& values) {
    return Var(values.to(features.value().dtype()).to(features.value().device()));
  };
  Draws draws;
  if (calls_.defined()) draws = Draws(next_stream(key_, calls_));
  Var z = features;
  for (const auto& step : steps_) {
    if (step->form() == Form::kAddConstant) {
      z = ens::add(z, constant(noise_.reshape(one)));
    } else if (step->form() == Form::kAdd) {
      Tensor added = Tensor::zeros(shape);
      step->apply(added, draws);
      z = ens::add(z, constant(added));
    } else if (step->form() == Form::kScale) {
      Tensor factors = Tensor::full(shape, 1);
      step->apply(factors, draws);
      z = mul(z, constant(factors));
    } else if (step->form() == Form::kNormalise) {
      z = channel(*step, z, draws);
    } else {
      z = select(*step, z, draws);
    }
  }
  return z;
}

}  // namespace ens
