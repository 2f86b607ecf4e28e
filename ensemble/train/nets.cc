// SPDX-License-Identifier: Apache-2.0
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

std::vector<Var> EnsembleNet::outputs(const Var& images, Var& clean_features) {
  clean_features = head_->forward(images);
  const Var z = protect(protection_, clean_features);
  const float weight = 1.0f / static_cast<float>(bodies_.size());
  std::vector<Var> outputs;
  for (const auto& body : bodies_) outputs.push_back(affine(body->forward(z), weight, 0));
  return outputs;
}

Var EnsembleNet::net_cross_entropy(const std::vector<Var>& outputs, const Tensor& labels) {
  const auto count = static_cast<float>(outputs.size());
  Var total;
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::vector<Var> alone;
    for (size_t j = 0; j < outputs.size(); ++j) {
      alone.push_back(affine(outputs[j], j == i ? count : 0, 0));
    }
    const Var own = softmax_cross_entropy(logits(alone), labels);
    total = total.defined() ? ens::add(total, own) : own;
  }
  return affine(total, 1 / count, 0);
}

Var EnsembleNet::forward(const Var& images, Var& clean_features) {
  return logits(outputs(images, clean_features));
}

Var EnsembleNet::forward(const Var& images) {
  Var clean;
  return forward(images, clean);
}

ProtectionSpec EnsembleNet::protection() const { return spec_of(protection_); }

// ---- measuring

namespace {

// Head, bodies and tail as the edge and the cloud compute them, in batches of at most kBatch.
class EnsemblePlan {
 public:
  EnsemblePlan(const Sequential& head, const Protection& protection,
               const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
               const ModelSpec& spec, const Split& split, Device device, Dtype dtype)
      : protection_(protection),
        output_(body_output_shape(spec, split)),
        count_(std::ssize(bodies)),
        device_(device),
        head_(lower(head, spec.input_shape()), device, dtype, kBatch),
        bodies_(graphs(bodies, smashed_shape(spec, split)), device, dtype, kBatch),
        tail_(lower(tail, joined()), device, dtype, kBatch) {}

  // The bodies' outputs / P for n images: [P, n, ...].
  Tensor outputs(const Tensor& images) {
    Tensor sent = head_.run(images).to(Device{});
    protection_.apply(sent);
    return backend(device_).unary(UnaryOp::kAffine, bodies_.run_all(sent.to(device_)),
                                  1.0f / static_cast<float>(count_), 0);
  }
  Tensor logits(const Tensor& outputs) {
    const int64_t n = outputs.dim(1);
    std::vector<Var> parts;
    for (int64_t i = 0; i < count_; ++i) {
      parts.emplace_back(outputs.rows(i, 1).reshape(batched(n, output_)));
    }
    return tail_.run(concat(parts, 1).value());
  }

 private:
  static std::vector<Graph> graphs(const std::vector<std::shared_ptr<Sequential>>& bodies,
                                   const Shape& smashed) {
    std::vector<Graph> out;
    for (const auto& body : bodies) out.push_back(lower(*body, smashed));
    return out;
  }
  Shape joined() const {
    Shape shape = output_;
    shape.set(0, output_[0] * count_);
    return shape;
  }

  const Protection& protection_;
  const Shape output_;
  const int64_t count_;
  const Device device_;
  Plan head_, bodies_, tail_;
};

}  // namespace

double plan_accuracy(const Sequential& head, const Protection& protection,
                     const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
                     const ModelSpec& spec, const Split& split, const Dataset& data, Device device,
                     Dtype dtype, const std::function<void()>& each_batch) {
  EnsemblePlan plan(head, protection, bodies, tail, spec, split, device, dtype);
  double right = 0;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    each_batch();
    const int64_t n = std::min(kBatch, data.count() - first);
    const Tensor logits = plan.logits(plan.outputs(images_of(data, first, n)));
    right += accuracy(logits, labels_of(data, first, n)) * static_cast<double>(n);
  }
  return data.count() ? right / static_cast<double>(data.count()) : 0.0;
}

std::vector<NetShare> net_shares(const Sequential& head, const Protection& protection,
                                 const std::vector<std::shared_ptr<Sequential>>& bodies,
                                 const Sequential& tail, const ModelSpec& spec, const Split& split,
                                 const Dataset& data, Device device, Dtype dtype,
                                 const std::function<void()>& each_batch) {
  EnsemblePlan plan(head, protection, bodies, tail, spec, split, device, dtype);
  const int64_t nets = std::ssize(bodies), count = data.count();
  std::vector<Tensor> batches;  // of outputs, float32 on the CPU
  std::vector<std::vector<double>> means(static_cast<size_t>(nets));
  for (int64_t first = 0; first < count; first += kBatch) {
    each_batch();
    const int64_t n = std::min(kBatch, count - first);
    batches.push_back(plan.outputs(images_of(data, first, n)).to(Device{}).to(Dtype::kF32).plain());
    const int64_t size = batches.back().numel() / (nets * n);
    const float* value = batches.back().data<float>();
    for (auto& mean : means) {
      mean.resize(static_cast<size_t>(size));
      for (int64_t i = 0; i < n * size; ++i) {
        mean[static_cast<size_t>(i % size)] += *value++ / static_cast<double>(count);
      }
    }
  }
  // The logits [count, classes] when only the nets that `hears` names are heard.
  const auto logits_of = [&](const std::function<bool(int64_t net)>& hears) {
    std::vector<float> all;
    for (const Tensor& batch : batches) {
      each_batch();
      Tensor heard = batch.clone();
      const int64_t n = batch.dim(1), size = batch.numel() / (nets * n);
      for (int64_t net = 0; net < nets; ++net) {
        if (hears(net)) continue;
        float* to = heard.data<float>() + net * n * size;
        const auto& mean = means[static_cast<size_t>(net)];
        for (int64_t i = 0; i < n * size; ++i) {
          to[i] = static_cast<float>(mean[static_cast<size_t>(i % size)]);
        }
      }
      const auto logits = plan.logits(heard.to(device).to(dtype)).to(Device{}).to_vector();
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  const std::vector<float> together = logits_of([](int64_t) { return true; });
  const int64_t classes = std::ssize(together) / std::max<int64_t>(count, 1);
  std::vector<NetShare> shares(static_cast<size_t>(nets));
  double total = 0;
  for (int64_t net = 0; net < nets; ++net) {
    NetShare& own = shares[static_cast<size_t>(net)];
    const std::vector<float> without = logits_of([&](int64_t other) { return other != net; });
    // What all classes gain alike decides nothing.
    std::vector<double> sums(static_cast<size_t>(classes)), squares(static_cast<size_t>(classes));
    for (int64_t i = 0; i < count; ++i) {
      double mean = 0;
      const auto gain = [&](int64_t c) {
        const auto at = static_cast<size_t>(i * classes + c);
        return static_cast<double>(together[at]) - without[at];
      };
      for (int64_t c = 0; c < classes; ++c) mean += gain(c) / static_cast<double>(classes);
      for (int64_t c = 0; c < classes; ++c) {
        sums[static_cast<size_t>(c)] += gain(c) - mean;
        squares[static_cast<size_t>(c)] += (gain(c) - mean) * (gain(c) - mean);
      }
    }
    for (size_t c = 0; c < sums.size(); ++c) {
      own.share += squares[c] - sums[c] * sums[c] / static_cast<double>(count);
    }
    total += own.share;
    const Tensor alone =
        Tensor::from(logits_of([&](int64_t other) { return other == net; }), {count, classes});
    own.accuracy = accuracy(alone, labels_of(data, 0, count));
  }
  for (NetShare& own : shares) own.share = total > 0 ? own.share / total : 0;
  return shares;
}

Tensor plan_features(const Sequential& head, const ModelSpec& spec, const Dataset& data, int64_t n,
                     Device device, Dtype dtype) {
  Plan plan(lower(head, spec.input_shape()), device, dtype, kBatch);
  return plan.run(images_of(data, 0, n)).to(Device{});
}

}  // namespace ens
