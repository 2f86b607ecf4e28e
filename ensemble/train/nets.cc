#include "ensemble/train/nets.h"

#include <algorithm>

#include "nn/core/backend.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

// z + g, with g broadcast over the batch.
Var add_noise(const Var& features, const Tensor& noise) {
  Shape shape = features.shape();
  shape.set(0, 1);
  return add(features, Var(noise.reshape(shape).to(features.value().dtype())));
}

}  // namespace

SingleNet::SingleNet(const ModelSpec& spec, const Split& split, Tensor noise, Rng& rng) {
  head_ = add("head", build_head(spec, split, rng));
  body_ = add("body", build_body(spec, split, rng));
  tail_ = add("tail", build_tail(spec, split, rng, 1));
  noise_ = add_buffer("noise", std::move(noise));
}

Var SingleNet::forward(const Var& images) {
  return tail_->forward(body_->forward(add_noise(head_->forward(images), noise_)));
}

EnsembleNet::EnsembleNet(const ModelSpec& spec, const Split& split, Tensor noise,
                         std::vector<std::shared_ptr<Sequential>> selected_bodies, Rng& rng)
    : bodies_(std::move(selected_bodies)) {
  head_ = add("head", build_head(spec, split, rng));
  tail_ = add("tail", build_tail(spec, split, rng, static_cast<int>(bodies_.size())));
  noise_ = add_buffer("noise", std::move(noise));
}

Var EnsembleNet::forward(const Var& images, Var& clean_features) {
  clean_features = head_->forward(images);
  const Var z = add_noise(clean_features, noise_);
  const float weight = 1.0f / static_cast<float>(bodies_.size());
  std::vector<Var> answers;
  for (const auto& body : bodies_) answers.push_back(affine(body->forward(z), weight, 0));
  return tail_->forward(concat(answers, 1));
}

Var EnsembleNet::forward(const Var& images) {
  Var clean;
  return forward(images, clean);
}

double plan_accuracy(const Sequential& head, const Tensor& noise,
                     const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
                     const ModelSpec& spec, const Split& split, const Dataset& data, Device device,
                     Dtype dtype) {
  constexpr int64_t kBatch = 128;
  const Shape smashed = smashed_shape(spec, split), answer = answer_shape(spec, split);
  Shape joined = answer;
  const int64_t count = static_cast<int64_t>(bodies.size());
  joined.set(0, answer[0] * count);
  Plan head_plan(lower(head, spec.input_shape()), device, dtype, kBatch);
  Plan tail_plan(lower(tail, joined), device, dtype, kBatch);
  std::vector<Plan> body_plans;
  body_plans.reserve(bodies.size());
  for (const auto& body : bodies)
    body_plans.emplace_back(lower(*body, smashed), device, dtype, kBatch);
  Backend& be = backend(device);
  Shape noise_shape{1, smashed[0], smashed[1], smashed[2]};
  const Tensor g = noise.reshape(noise_shape);
  double right = 0;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    const int64_t n = std::min(kBatch, data.count() - first);
    const Tensor z = be.binary(BinaryOp::kAdd, head_plan.run(images_of(data, first, n)), g);
    std::vector<Var> answers;
    for (Plan& body : body_plans) {
      answers.emplace_back(
          be.unary(UnaryOp::kAffine, body.run(z), 1.0f / static_cast<float>(count), 0));
    }
    const Tensor logits = tail_plan.run(concat(answers, 1).value());
    right += accuracy(logits, labels_of(data, first, n)) * static_cast<double>(n);
  }
  return data.count() ? right / static_cast<double>(data.count()) : 0.0;
}

}  // namespace ens
