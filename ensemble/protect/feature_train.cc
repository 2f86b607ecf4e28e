#include "ensemble/protect/feature_train.h"

#include <algorithm>
#include <memory>

#include "nn/autograd/ops.h"

namespace ens {

using Form = FeatureStep::Form;

Rng next_stream(uint64_t key, Tensor& calls) {
  const float count = calls.item();  // exact up to 2^24
  calls.fill(count + 1);
  return Rng(key, static_cast<uint64_t>(count));
}

namespace {

// Sets to zero what the step sets to zero; it is a constant for the gradient.
Var select(const FeatureStep& step, const Var& z, Rng& rng) {
  Tensor kept = z.value().to(Device{}).to(Dtype::kF32).plain().clone();
  step.apply(kept, rng);
  for (float& value : kept.span<float>()) value = value != 0 ? 1.0f : 0.0f;
  return mul(z, Var(kept.to(z.value().dtype()).to(z.value().device())));
}

}  // namespace

std::function<Var(const Var&)> mean_protection(const ProtectionSpec& spec) {
  const Tensor noise = mean_noise(spec), factor = mean_factor(spec);
  std::vector<std::shared_ptr<const FeatureStep>> selections;
  for (const ProtectionStep& step : spec) {
    std::shared_ptr<const FeatureStep> made = make_step(step);
    if (made->form() == Form::kSelect) selections.push_back(made);
  }
  if (!noise.defined() && !factor.defined() && selections.empty()) return {};
  return [noise, factor, selections](const Var& features) {
    Var z = features;
    const auto constant = [&](const Tensor& values) {
      Shape one = z.shape();
      one.set(0, 1);
      return Var(values.reshape(one).to(z.value().dtype()).to(z.value().device()));
    };
    if (factor.defined()) z = mul(z, constant(factor));
    if (noise.defined()) z = add(z, constant(noise));
    Rng none;  // a selection draws nothing
    for (const auto& step : selections) z = select(*step, z, none);
    return z;
  };
}

bool draws_anew(const ProtectionSpec& spec) {
  return std::ranges::any_of(spec, [](const ProtectionStep& step) {
    const Form form = make_step(step)->form();
    return form == Form::kAdd || form == Form::kScale;
  });
}

FeatureTraining::FeatureTraining(const ProtectionSpec& spec, uint64_t key)
    : spec_(spec), key_(key) {
  bool on_the_host = false;
  for (const ProtectionStep& step : spec) {
    steps_.push_back(make_step(step));
    if (steps_.back()->form() == Form::kAddConstant) {
      noise_ = step.values;
      add_buffer("noise", noise_);
    } else {
      on_the_host = true;
    }
  }
  if (on_the_host) add_host_counter("calls", calls_);
}

ProtectionSpec FeatureTraining::spec() const {
  ProtectionSpec now = spec_;
  for (size_t i = 0; i < now.size(); ++i) {
    if (steps_[i]->form() == Form::kAddConstant) now[i].values = noise_.to(Device{});
  }
  return now;
}

Var FeatureTraining::forward(const Var& features) {
  const Shape& shape = features.shape();
  Shape one = shape;
  one.set(0, 1);
  const auto constant = [&](const Tensor& values) {
    return Var(values.to(features.value().dtype()).to(features.value().device()));
  };
  Rng rng;
  if (calls_.defined()) rng = next_stream(key_, calls_);
  Var z = features;
  for (const auto& step : steps_) {
    if (step->form() == Form::kAddConstant) {
      z = ens::add(z, constant(noise_.reshape(one)));
    } else if (step->form() == Form::kAdd) {
      Tensor added = Tensor::zeros(shape);
      step->apply(added, rng);
      z = ens::add(z, constant(added));
    } else if (step->form() == Form::kScale) {
      Tensor factors = Tensor::full(shape, 1);
      step->apply(factors, rng);
      z = mul(z, constant(factors));
    } else {
      z = select(*step, z, rng);
    }
  }
  return z;
}

}  // namespace ens
