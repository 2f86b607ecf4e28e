#include "edge/pipeline.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/error.h"

namespace ens {
namespace {

// What the tail reads: the outputs of P nets, concatenated along the channels.
Shape tail_input(const BundleInfo& info, int selected) {
  Shape shape = body_output_shape(info.model, info.split);
  shape.set(0, shape[0] * selected);
  return shape;
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
  Impl(EdgeBundle b, int max_batch)
      : bundle(std::move(b)),
        tail(lower(*bundle.tail, tail_input(bundle.info, bundle.selector.count())), Device{},
             Dtype::kF32, max_batch),
        protection(make_protection(bundle.protection)) {
    const Shape input = bundle.blinded
                            ? bundle.blinded->net.graph.shape(bundle.blinded->net.graph.output)
                            : bundle.info.model.input_shape();
    // All of the head may be blinded.
    if (bundle.head->size() > 0)
      head.emplace(lower(*bundle.head, input), Device{}, Dtype::kF32, max_batch);
    bundle.head.reset();  // the plans hold their own weights
    bundle.tail.reset();
  }

  EdgeBundle bundle;
  std::optional<Plan> head;
  Plan tail;
  std::unique_ptr<Protection> protection;
};

EdgePipeline::EdgePipeline(EdgeBundle bundle, int max_batch)
    : impl_(std::make_unique<Impl>(std::move(bundle), max_batch)) {}
EdgePipeline::~EdgePipeline() = default;

const BundleInfo& EdgePipeline::info() const { return impl_->bundle.info; }
const std::vector<std::string>& EdgePipeline::class_names() const {
  return impl_->bundle.class_names;
}

const Int8Net* EdgePipeline::blinded() const {
  return impl_->bundle.blinded ? &impl_->bundle.blinded->net : nullptr;
}

Tensor EdgePipeline::smash(const Tensor& images) {
  Tensor features = impl_->head ? impl_->head->run(images) : images.clone();
  impl_->protection->apply(features);
  return features;
}

Tensor EdgePipeline::finish(const Tensor& outputs) {
  return impl_->tail.run(impl_->bundle.selector.combine(outputs));
}

}  // namespace ens
