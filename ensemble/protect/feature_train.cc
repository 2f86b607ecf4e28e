#include "ensemble/protect/feature_train.h"

#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "nn/autograd/ops.h"

namespace ens {

Rng next_stream(uint64_t key, Tensor& calls) {
  const float count = calls.item();  // exact up to 2^24
  calls.fill(count + 1);
  return Rng(key, static_cast<uint64_t>(count));
}

FeatureTraining::FeatureTraining(const ProtectionSpec& spec, uint64_t key)
    : spec_(spec), key_(key) {
  if (spec.has_bank()) fail("a bank of noises is trained on its own", "FeatureTraining");
  if (spec.noise.defined()) add_buffer("noise", spec_.noise);
  if (spec.dropout > 0 || spec.fresh_sigma > 0) add_host_counter("calls", calls_);
}

ProtectionSpec FeatureTraining::spec() const {
  ProtectionSpec now = spec_;
  if (now.noise.defined()) now.noise = now.noise.to(Device{});
  return now;
}

Var FeatureTraining::forward(const Var& features) {
  const Shape& shape = features.shape();
  const auto constant = [&](const Tensor& values) {
    return Var(values.to(features.value().dtype()).to(features.value().device()));
  };
  Rng rng;
  if (calls_.defined()) rng = next_stream(key_, calls_);
  Var z = features;
  if (spec_.dropout > 0) {
    Tensor mask = Tensor::full(shape, 1);
    draws::drop(rng, mask.span<float>(), spec_.dropout);
    z = mul(z, constant(mask));
  }
  if (spec_.noise.defined()) {
    Shape one = shape;
    one.set(0, 1);
    z = ens::add(z, constant(spec_.noise.reshape(one)));
  }
  if (spec_.fresh_sigma > 0) {
    Tensor noise = Tensor::zeros(shape);
    draws::add_normal(rng, noise.span<float>(), spec_.fresh_sigma);
    z = ens::add(z, constant(noise));
  }
  return z;
}

}  // namespace ens
