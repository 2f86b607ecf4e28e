// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/substitute.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "attacks/split/shadow.h"
#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/models/model.h"

namespace ens {

// Images through which the criterion looks: two thirds fit a tail, one third tests.
constexpr int64_t kCriterionImages = 1536;

class Substitute::Head : public Module {
 public:
  Head(const ServerView& view, const AttackContext& context, Rng& rng)
      : view_(view), dtype_(context.dtype) {
    head_ = add("head", build_head(view.model, view.split, rng));
    const Shape z = smashed_shape(view.model, view.split);
    map_ = add_parameter("map", Tensor::zeros({1, z[0], z[1], z[2]}));
    size = Tensor::full({1, z[0], 1, 1}, 1.0f, Dtype::kF32, context.device);
    to(context.device);
    if (view.channel) noise_ = Rng(rng.next());
  }

  Var forward(const Var& images) override {
    const Var z = cast(head_->forward(cast(images, dtype_)), Dtype::kF32);
    if (view_.channel) return view_.channel(z, &noise_);
    return ens::add(mul(z, Var(size)), map_);
  }

  Tensor size;  // [1,C,1,1]

 private:
  const ServerView& view_;
  Rng noise_;
  Dtype dtype_;
  std::shared_ptr<Sequential> head_;
  Var map_;
};

Substitute::Substitute(const TrafficView& view, const AttackContext& context,
                       const PublicSplit& data, std::string candidate, Rng& rng)
    : view_(view),
      context_(context),
      data_(data),
      candidate_(std::move(candidate)),
      criterion_seed_(rng.next()),
      head_(std::make_shared<Head>(view, context, rng)) {}
Substitute::~Substitute() = default;

void Substitute::set_size(const FeatureMoments& wanted) {
  const Tensor images = images_of(data_.train, 0, std::min<int64_t>(256, data_.train.count()));
  NoGrad no_grad;
  const Tensor z = head_->forward(Var(images.to(context_.device))).value();
  const FeatureMoments own = feature_moments({&z, 1}, z.device());
  const std::vector<float> a = own.covariance.to_vector(), b = wanted.covariance.to_vector();
  const auto c = static_cast<size_t>(head_->size.dim(1));
  Tensor size = Tensor::full(head_->size.shape(), 1.0f);
  for (size_t i = 0; i < c; ++i) {
    const float from = std::sqrt(std::max(a[i * c + i], 0.0f)) * own.scale;
    const float to = std::sqrt(std::max(b[i * c + i], 0.0f)) * wanted.scale;
    if (from > 1e-6f && to > 1e-6f) size.data<float>()[i] = to / from;
  }
  head_->size = size.to(head_->size.device());
}

Var Substitute::forward(const Tensor& images) {
  return head_->forward(Var(with_polarity(images, polarity_).to(context_.device)));
}

Tensor Substitute::features(const Tensor& images, Polarity polarity) {
  NoGrad no_grad;
  return head_->forward(Var(with_polarity(images, polarity).to(context_.device))).value();
}
Tensor Substitute::features(const Tensor& images) { return features(images, polarity_); }

std::vector<NamedVar> Substitute::parameters() const { return head_->parameters(); }
void Substitute::freeze() { head_->freeze(); }

double Substitute::criterion() { return criterion(polarity_); }

double Substitute::criterion(Polarity polarity) {
  if (view_.bodies.empty()) return 0;
  constexpr int64_t kBatch = 128;
  constexpr int kEpochs = 15;
  const int64_t total = std::min(data_.train.count(), kCriterionImages), fitted = total * 2 / 3;
  std::vector<Var> parts;
  for (int64_t first = 0; first < total; first += kBatch) {
    NoGrad no_grad;
    const int64_t n = std::min(kBatch, total - first);
    const Var z(features(images_of(data_.train, first, n), polarity));
    parts.push_back(cast(server_outputs(view_, context_.dtype, z), Dtype::kF32));
    context_.report(n * static_cast<int64_t>(view_.bodies.size()),
                    candidate_ + ": choosing the polarity");
  }
  const Tensor joined = concat(parts, 0).value().plain();
  const Tensor labels = labels_of(data_.train, 0, total).to(context_.device);
  Rng rng(criterion_seed_, "criterion");
  ShadowTail tail(view_, context_.device, rng);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.weight_decay = 1e-3f;
  Optimizer optimizer(tail.parameters(), adam);
  double best = std::numeric_limits<double>::infinity();
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    tail.train();
    for (int64_t first = 0; first < fitted; first += kBatch) {
      const int64_t n = std::min(kBatch, fitted - first);
      const Var scores = tail.forward(Var(joined.rows(first, n)));
      softmax_cross_entropy(scores, labels.rows(first, n)).backward();
      optimizer.step(3e-3f);
    }
    tail.train(false);
    NoGrad no_grad;
    const Var scores = tail.forward(Var(joined.rows(fitted, total - fitted)));
    best = std::min<double>(
        best, softmax_cross_entropy(scores, labels.rows(fitted, total - fitted)).item());
  }
  return -best;
}

void Substitute::choose_polarity(double margin) {
  double best = criterion(polarity_) + margin;
  Polarity chosen = polarity_;
  for (Polarity c : polarities(view_.model.channels)) {
    if (c == polarity_) continue;
    const double score = criterion(c);
    if (score > best) {
      best = score;
      chosen = c;
    }
  }
  polarity_ = chosen;
}

int64_t Substitute::cost_in_images(const SplitSetting& setting, int choices) {
  const int64_t kinds = std::ssize(polarities(setting.model.channels));
  return (choices * kinds + 1) * setting.nets *
         std::min(training_images(setting), kCriterionImages);
}

ShadowTail::ShadowTail(const ServerView& view, Device device, Rng& rng) {
  const auto n = std::max<int64_t>(std::ssize(view.bodies), 1);
  tail_ = add("tail", build_tail(view.model, view.split, rng, static_cast<int>(n)));
  selector_ = add_parameter("selector", Tensor::full({n}, 1.0f));
  to(device);
}

Var ShadowTail::forward(const Var& joined) {
  const int64_t n = selector_.dim(0), each = joined.dim(1) / n;
  std::vector<Var> net_outputs;
  for (int64_t i = 0; i < n; ++i) net_outputs.push_back(slice(joined, 1, i * each, each));
  return tail_->forward(weighted_outputs(std::move(net_outputs), selector_));
}

Var server_outputs(const ServerView& view, Dtype dtype, const Var& features) {
  std::vector<Var> all;
  for (const auto& body : view.bodies) all.push_back(body->forward(cast(features, dtype)));
  return concat(all, 1);
}

Var gradient_penalty(Module& critic, const Tensor& real, const Tensor& fake, Rng& rng) {
  constexpr float kStep = 0.05f;  // features have about unit deviation, thousands of elements
  Shape one_each = real.shape();
  for (int axis = 1; axis < one_each.rank(); ++axis) one_each.set(axis, 1);
  Tensor share = Tensor::empty(one_each);
  rng.fill_uniform(share.span<float>(), 0, 1);
  Var point;
  {
    NoGrad no_grad;
    const Var difference = sub(Var(real), Var(fake));
    point = add(Var(fake), mul(difference, Var(share.to(real.device()))));
  }
  const Var z(point.value(), true);
  require_gradients(critic, false);
  sum(critic.forward(z)).backward();
  require_gradients(critic, true);
  Var step;  // along the gradient, of length kStep for every row
  {
    NoGrad no_grad;
    const Var slope(z.grad());
    const Var norm = sqrt(affine(sum_to(square(slope), one_each), 1, 1e-12f));
    step = affine(div(slope, norm), kStep, 0);
  }
  const Var rise = sub(critic.forward(add(point, step)), critic.forward(sub(point, step)));
  return mean(square(affine(rise, 0.5f / kStep, -1)));
}

ObservedFeatureSampler::ObservedFeatureSampler(const TrafficView& view, uint64_t seed)
    : parts_{view.traffic, view.observed}, rng_(seed, "traffic") {
  for (const Tensor& part : parts_) count_ += part.dim(0);
}

Tensor ObservedFeatureSampler::next(int64_t n) {
  Shape shape = parts_[0].shape();
  const int64_t row = shape.numel() / shape[0];
  shape.set(0, n);
  Tensor batch = Tensor::empty(shape);
  for (int64_t i = 0; i < n; ++i, ++at_) {
    if (at_ == std::ssize(order_)) {
      order_ = rng_.permutation(count_);
      at_ = 0;
    }
    int64_t index = order_[static_cast<size_t>(at_)];
    const Tensor& part = parts_[index < parts_[0].dim(0) ? 0 : 1];
    if (index >= parts_[0].dim(0)) index -= parts_[0].dim(0);
    std::memcpy(batch.data<float>() + i * row, part.data<float>() + index * row,
                static_cast<size_t>(row) * sizeof(float));
  }
  return batch;
}

ImageSampler::ImageSampler(const Dataset& data, int64_t batch, uint64_t seed)
    : loader_(data, {.batch = batch, .flip = true, .seed = seed}) {
  loader_.start(0);
}

const Batch& ImageSampler::next() {
  if (!loader_.next(batch_)) {
    loader_.start(++epoch_);
    loader_.next(batch_);
  }
  return batch_;
}

void require_traffic(const TrafficView& view, const std::string& attack) {
  if (!view.traffic.defined() || view.traffic.dim(0) == 0) {
    usage_fail("the alignment has no features to align with", attack,
               "set attack.observed_features above 0");
  }
  if (smashed_shape(view.model, view.split).rank() != 3) {
    usage_fail("the client sends no maps at this split", attack,
               "choose a smaller model.head_cells");
  }
}

}  // namespace ens
