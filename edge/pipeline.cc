// SPDX-License-Identifier: Apache-2.0
#include "edge/pipeline.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

// What the tail reads: the outputs of P nets, concatenated along the channels.
Shape tail_input(const BundleInfo& info, int selected) {
  Shape shape = body_output_shape(info.model, info.split);
  shape.set(0, shape[0] * selected);
  return shape;
}

// With the same noise, two heads or two powers would let the difference of what they send be seen
// without any noise: the key is of this bundle alone.
Seed noise_key_of(const Seed& device_key, const EdgeBundle& bundle) {
  std::map<std::string, Tensor> secrets;
  for (const NamedTensor& t : bundle.head->state()) secrets["head/" + t.name] = t.tensor;
  for (const ProtectionStep& step : bundle.protection) secrets["step/" + step.name] = step.values;
  const std::string text = "noise of a channel" + bundle.info.fingerprint + digest(secrets);
  return hmac_sha256(device_key, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

}  // namespace

Status check_images(const Tensor& images, const ModelSpec& model) {
  const Shape one = model.input_shape();
  if (images.rank() != 4 || images.dtype() != Dtype::kF32 || images.dim(0) < 1 ||
      !std::ranges::equal(images.shape().dims().subspan(1), one.dims())) {
    return {StatusCode::kInvalidArgument, "images are " + images.shape().str() + " " +
                                              name(images.dtype()) + ", expected [B, " +
                                              one.str().substr(1) + " float32"};
  }
  // With room for the rounding of x * (1 / 255).
  const auto outside = [](float value) { return !(value >= -1e-3f && value <= 1.001f); };
  const auto values = images.span<float>();
  const auto odd = std::ranges::find_if(values, outside);
  if (odd == values.end()) return {};
  return {StatusCode::kInvalidArgument,
          "image " + std::to_string((odd - values.begin()) / one.numel()) + " has a value of " +
              std::to_string(*odd) + "; the values of an image are in [0, 1]"};
}

struct EdgePipeline::Impl {
  Impl(EdgeBundle b, int max_batch, const std::optional<Seed>& device_key)
      : bundle(std::move(b)),
        tail(lower(*bundle.tail, tail_input(bundle.info, bundle.selector.count())), Device{},
             Dtype::kF32, max_batch),
        protection(make_protection(bundle.protection)),
        channel(find_channel(bundle.protection,
                             smashed_shape(bundle.info.model, bundle.info.split).numel())) {
    if (device_key && channel && channel->keyed) noise_key = noise_key_of(*device_key, bundle);
    const Shape input = bundle.blinded
                            ? bundle.blinded->net.graph.shape(bundle.blinded->net.graph.output)
                            : bundle.info.model.input_shape();
    // All of the head may be blinded.
    if (bundle.head->size() > 0)
      head.emplace(lower(*bundle.head, input), Device{}, Dtype::kF32, max_batch);
    bundle.head.reset();  // the plans hold their own weights
    bundle.tail.reset();
  }

  // One for each image; none without a device's key.
  std::vector<Seed> noise_seeds(const Tensor& images) const {
    std::vector<Seed> seeds;
    if (!noise_key) return seeds;
    const int64_t size = images.numel() / images.dim(0);
    const Tensor plain = images.plain();
    const auto* pixels = reinterpret_cast<const uint8_t*>(plain.data<float>());
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    for (int64_t i = 0; i < images.dim(0); ++i) {
      seeds.push_back(hmac_sha256(*noise_key, {pixels + static_cast<size_t>(i) * bytes, bytes}));
    }
    return seeds;
  }

  EdgeBundle bundle;
  std::optional<Plan> head;
  Plan tail;
  std::unique_ptr<Protection> protection;
  std::optional<Channel> channel;
  std::optional<Seed> noise_key;
};

EdgePipeline::EdgePipeline(EdgeBundle bundle, int max_batch, const std::optional<Seed>& device_key)
    : impl_(std::make_unique<Impl>(std::move(bundle), max_batch, device_key)) {}
EdgePipeline::~EdgePipeline() = default;

const BundleInfo& EdgePipeline::info() const { return impl_->bundle.info; }
const std::vector<std::string>& EdgePipeline::class_names() const {
  return impl_->bundle.class_names;
}

const std::optional<Channel>& EdgePipeline::channel() const { return impl_->channel; }

const Int8Net* EdgePipeline::blinded() const {
  return impl_->bundle.blinded ? &impl_->bundle.blinded->net : nullptr;
}

Tensor EdgePipeline::smash(const Tensor& images) {
  Tensor features = impl_->head ? impl_->head->run(images) : images.clone();
  impl_->protection->apply(features, impl_->noise_seeds(images));
  return features;
}

Tensor EdgePipeline::finish(const Tensor& outputs) {
  return impl_->tail.run(impl_->bundle.selector.combine(outputs));
}

}  // namespace ens
