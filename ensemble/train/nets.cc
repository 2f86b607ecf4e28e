#include "ensemble/train/nets.h"

#include <algorithm>

#include "nn/core/backend.h"
#include "nn/data/loader.h"

namespace ens {

namespace {

constexpr int64_t kBatch = 128;  // of the plans

Var protect(const std::shared_ptr<FeatureTraining>& protection, const Var& features) {
  return protection ? protection->forward(features) : features;
}

ProtectionSpec spec_of(const std::shared_ptr<FeatureTraining>& protection) {
  return protection ? protection->spec() : ProtectionSpec{};
}

}  // namespace

// ---- one net

SingleNet::SingleNet(const ModelSpec& spec, const Split& split,
                     std::shared_ptr<FeatureTraining> protection, Rng& rng)
    : protection_(std::move(protection)) {
  head_ = add("head", build_head(spec, split, rng));
  body_ = add("body", build_body(spec, split, rng));
  tail_ = add("tail", build_tail(spec, split, rng, 1));
  if (protection_) add("protection", protection_);
}

Var SingleNet::forward(const Var& images, Var& clean_features) {
  clean_features = head_->forward(images);
  return tail_->forward(body_->forward(protect(protection_, clean_features)));
}

Var SingleNet::forward(const Var& images) {
  Var clean;
  return forward(images, clean);
}

ProtectionSpec SingleNet::protection() const { return spec_of(protection_); }

// ---- several

EnsembleNet::EnsembleNet(const ModelSpec& spec, const Split& split,
                         std::shared_ptr<FeatureTraining> protection,
                         std::vector<std::shared_ptr<Sequential>> frozen, Rng& rng)
    : bodies_(std::move(frozen)), protection_(std::move(protection)) {
  head_ = add("head", build_head(spec, split, rng));
  tail_ = add("tail", build_tail(spec, split, rng, static_cast<int>(bodies_.size())));
  if (protection_) add("protection", protection_);
}

EnsembleNet::EnsembleNet(const ModelSpec& spec, const Split& split,
                         std::shared_ptr<FeatureTraining> protection, int nets, Rng& rng)
    : EnsembleNet(
          spec, split, std::move(protection),
          [&] {
            std::vector<std::shared_ptr<Sequential>> bodies;
            for (int i = 0; i < nets; ++i) bodies.push_back(build_body(spec, split, rng));
            return bodies;
          }(),
          rng) {
  for (size_t i = 0; i < bodies_.size(); ++i) add("body" + std::to_string(i), bodies_[i]);
}

Var EnsembleNet::forward(const Var& images, Var& clean_features) {
  clean_features = head_->forward(images);
  const Var z = protect(protection_, clean_features);
  const float weight = 1.0f / static_cast<float>(bodies_.size());
  std::vector<Var> answers;
  for (const auto& body : bodies_) answers.push_back(affine(body->forward(z), weight, 0));
  return tail_->forward(concat(answers, 1));
}

Var EnsembleNet::forward(const Var& images) {
  Var clean;
  return forward(images, clean);
}

ProtectionSpec EnsembleNet::protection() const { return spec_of(protection_); }

// ---- measuring

double plan_accuracy(const Sequential& head, const Protection& protection,
                     const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
                     const ModelSpec& spec, const Split& split, const Dataset& data, Device device,
                     Dtype dtype, const std::function<void()>& each_batch) {
  const Shape smashed = smashed_shape(spec, split), answer = body_output_shape(spec, split);
  Shape joined = answer;
  const int64_t count = static_cast<int64_t>(bodies.size());
  joined.set(0, answer[0] * count);
  Plan head_plan(lower(head, spec.input_shape()), device, dtype, kBatch);
  Plan tail_plan(lower(tail, joined), device, dtype, kBatch);
  std::vector<Graph> body_graphs;
  for (const auto& body : bodies) body_graphs.push_back(lower(*body, smashed));
  Plan body_plan(body_graphs, device, dtype, kBatch);
  Backend& be = backend(device);
  double right = 0;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    each_batch();
    const int64_t n = std::min(kBatch, data.count() - first);
    Tensor sent = head_plan.run(images_of(data, first, n)).to(Device{});
    protection.apply(sent);
    const Tensor z = sent.to(device);
    const Tensor all =
        be.unary(UnaryOp::kAffine, body_plan.run_all(z), 1.0f / static_cast<float>(count), 0);
    std::vector<Var> answers;
    for (int64_t i = 0; i < count; ++i) {
      answers.emplace_back(all.rows(i, 1).reshape(batched(n, answer)));
    }
    const Tensor logits = tail_plan.run(concat(answers, 1).value());
    right += accuracy(logits, labels_of(data, first, n)) * static_cast<double>(n);
  }
  return data.count() ? right / static_cast<double>(data.count()) : 0.0;
}

Tensor plan_features(const Sequential& head, const ModelSpec& spec, const Dataset& data, int64_t n,
                     Device device, Dtype dtype) {
  Plan plan(lower(head, spec.input_shape()), device, dtype, kBatch);
  return plan.run(images_of(data, 0, n)).to(Device{});
}

}  // namespace ens
