#include "attacks/split/alignment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "attacks/core/metrics.h"
#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"
#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Peak rates of Adam (betas 0.5 and 0.9, as usual for adversaries).
constexpr float kWarmUpRate = 2e-3f, kSubstituteRate = 1.5e-3f, kCriticRate = 3e-4f;
// Images through which the attacker's own criterion looks: two thirds fit a tail, one third tests.
constexpr int64_t kCriterionImages = 1536;
// By how much another polarity must be better before training changes to it: the criterion is
// noisy, and a change costs many steps.
constexpr double kMargin = 0.03;
// Images of each batch that pass through the server nets, for the shadow term.
constexpr int64_t kShadowBatch = 64;

// ---- networks

// What the attacker puts in the client's place: a head of the client's shape, its channels brought
// to the client's size, and a map added for the noise that the client draws once.
class Substitute : public Module {
 public:
  Substitute(const ServerView& view, const AttackContext& context, Rng& rng)
      : dtype_(context.dtype) {
    head_ = add("head", build_head(view.model, view.split, rng));
    const Shape z = smashed_shape(view.model, view.split);
    map_ = add_parameter("map", Tensor::zeros({1, z[0], z[1], z[2]}));
    size_ = Tensor::full({1, z[0], 1, 1}, 1.0f, Dtype::kF32, context.device);
    to(context.device);
  }

  // Brings each channel's deviation over some images to that of `wanted`: small steps of training
  // would be long in getting there.
  void set_size(const Tensor& images, const FeatureMoments& wanted) {
    NoGrad no_grad;
    const Tensor z = forward(Var(images)).value();
    const FeatureMoments own = feature_moments({&z, 1}, z.device());
    const std::vector<float> a = own.covariance.to_vector(), b = wanted.covariance.to_vector();
    const auto c = static_cast<size_t>(size_.dim(1));
    Tensor size = Tensor::full(size_.shape(), 1.0f);
    for (size_t i = 0; i < c; ++i) {
      const float from = std::sqrt(std::max(a[i * c + i], 0.0f)) * own.scale;
      const float to = std::sqrt(std::max(b[i * c + i], 0.0f)) * wanted.scale;
      if (from > 1e-6f && to > 1e-6f) size.data<float>()[i] = to / from;
    }
    size_ = size.to(size_.device());
  }

  // Images -> features, float32: what compares distributions wants the precision.
  Var forward(const Var& images) override {
    const Var z = cast(head_->forward(cast(images, dtype_)), Dtype::kF32);
    return ens::add(mul(z, Var(size_)), map_);
  }

 private:
  Dtype dtype_;
  std::shared_ptr<Sequential> head_;
  Var map_;
  Tensor size_;  // [1,C,1,1]
};

// Tells the client's features from the substitute's by one number for each image: three
// convolutions, of stride 2 as long as the map is larger than one position.
std::shared_ptr<Sequential> build_critic(const Shape& z, Rng& rng) {
  auto net = std::make_shared<Sequential>();
  const int64_t width = std::clamp<int64_t>(2 * z[0], 32, 128);
  int64_t channels = z[0], h = z[1], w = z[2];
  for (int64_t out : {width, 2 * width, 2 * width}) {
    const int stride = std::min(h, w) > 1 ? 2 : 1;
    net->push(std::make_shared<Conv2d>(channels, out, 3, ConvSpec{stride, 1}, true, rng));
    net->push(std::make_shared<Activation>(UnaryOp::kLeakyRelu, 0.2f));
    channels = out;
    h = (h + stride - 1) / stride;
    w = (w + stride - 1) / stride;
  }
  net->push(std::make_shared<Flatten>());
  net->push(std::make_shared<Linear>(channels * h * w, 1, true, rng));
  return net;
}

void require_gradients(const Module& module, bool on) {
  for (const NamedVar& p : module.parameters()) p.var.set_requires_grad(on);
}

// The client's tail over the outputs of all server nets, weighted by a trainable selector.
class ShadowTail : public Module {
 public:
  ShadowTail(const ServerView& view, Device device, Rng& rng) {
    const auto n = static_cast<int64_t>(view.bodies.size());
    tail_ = add("tail", build_tail(view.model, view.split, rng, static_cast<int>(n)));
    selector_ = add_parameter("selector", Tensor::full({n}, 1.0f));
    to(device);
  }

  // All outputs side by side along axis 1, as outputs() gives them.
  Var forward(const Var& joined) override {
    const int64_t n = selector_.dim(0), each = joined.dim(1) / n;
    std::vector<Var> net_outputs;
    for (int64_t i = 0; i < n; ++i) net_outputs.push_back(slice(joined, 1, i * each, each));
    return tail_->forward(weighted_outputs(std::move(net_outputs), selector_));
  }

 private:
  std::shared_ptr<Sequential> tail_;
  Var selector_;
};

// What all server nets say to features [B,C,H,W].
Var outputs(const ServerView& view, Dtype dtype, const Var& features) {
  std::vector<Var> all;
  for (const auto& body : view.bodies) all.push_back(body->forward(cast(features, dtype)));
  return concat(all, 1);
}

OptimSpec adversarial_adam() {
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.beta1 = 0.5f;
  adam.beta2 = 0.9f;
  return adam;
}

// ---- what the client sent

// All features that the server has seen, in one random order after another.
class ObservedFeatureSampler {
 public:
  ObservedFeatureSampler(const TrafficView& view, uint64_t seed) : rng_(seed, "traffic") {
    parts_ = {view.traffic, view.observed};
    for (const Tensor& part : parts_) count_ += part.dim(0);
  }

  std::span<const Tensor> parts() const { return parts_; }

  // n rows, on the CPU.
  Tensor next(int64_t n) {
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

 private:
  std::vector<Tensor> parts_;
  int64_t count_ = 0;
  Rng rng_;
  std::vector<int64_t> order_;
  int64_t at_ = 0;
};

// ---- one restart

class Alignment {
 public:
  Alignment(const TrafficView& view, const AttackContext& context, const PublicSplit& data,
            bool with_shadow, std::string part)
      : view_(view),
        context_(context),
        data_(data),
        with_shadow_(with_shadow),
        candidate_(std::move(part)),
        rng_(context.seed, "alignment/" + candidate_),
        criterion_seed_(rng_.next()),
        substitute_(view, context, rng_),
        critic_(build_critic(smashed_shape(view.model, view.split), rng_)) {
    critic_->to(context.device);
  }

  // Images through networks, as run() reports them.
  static int64_t cost(const SplitSetting& setting, const AttackConfig& settings, bool with_shadow) {
    const int64_t images = training_images(setting), nets = setting.nets;
    const int64_t batch = std::min<int64_t>(settings.alignment().batch(), images);
    const int64_t kinds = std::ssize(polarities(setting.model.channels));
    return settings.alignment().steps() *
               (batch + (with_shadow ? nets * std::min(batch, kShadowBatch) : 0)) +
           (kCheckpoints * kinds + 1) * nets * std::min(images, kCriterionImages) +
           images * settings.decoder().epochs();
  }

  Reconstruction run() {
    train();
    substitute_.freeze();
    choose_polarity(0);  // the criterion is at its surest now
    const auto features = [&](const Tensor& images) { return this->features(images, polarity_); };
    Reconstruction r;
    r.candidate = candidate_;
    r.self_score = criterion(polarity_);
    auto decoder = train_decoder(view_, context_, data_.train, features, rng_.next(), candidate_,
                                 /*capture=*/polarity_ == Polarity::kAsIs);
    r.images = decode(*decoder, view_, context_, view_.observed);
    r.calibration_targets = images_of(data_.held_out, 0, data_.held_out.count());
    r.calibration_images = decode(*decoder, view_, context_, features(r.calibration_targets));
    return r;
  }

 private:
  // How often the polarity is chosen anew: when `step` of `steps` are done, and after the last.
  static constexpr int64_t kCheckpoints = 5;
  static bool is_checkpoint_step(int64_t step, int64_t steps) {
    return step == steps / 8 || step == steps / 2 || step == steps * 3 / 4 || step == steps * 7 / 8;
  }

  Tensor features(const Tensor& images, Polarity polarity) {
    NoGrad no_grad;
    return substitute_.forward(Var(with_polarity(images, polarity).to(context_.device))).value();
  }

  void report(int64_t images, const std::string& note) const {
    context_.report(images, candidate_ + ": " + note);
  }

  void train();
  double criterion(Polarity polarity);
  void choose_polarity(double margin);

  const TrafficView& view_;
  const AttackContext& context_;
  const PublicSplit& data_;
  const bool with_shadow_;
  const std::string candidate_;
  Rng rng_;
  const uint64_t criterion_seed_;
  Substitute substitute_;
  std::shared_ptr<Sequential> critic_;
  Polarity polarity_ = Polarity::kAsIs;  // in which public images pass the substitute
};

void Alignment::train() {
  ObservedFeatureSampler sampler(view_, rng_.next());
  const FeatureMoments wanted = feature_moments(sampler.parts(), context_.device);
  const float to_unit = 1.0f / wanted.scale;
  substitute_.set_size(
      images_of(data_.train, 0, std::min<int64_t>(256, data_.train.count())).to(context_.device),
      wanted);
  Optimizer substitute_adam(substitute_.parameters(), adversarial_adam());
  Optimizer critic_adam(critic_->parameters(), adversarial_adam());
  ShadowTail tail(view_, context_.device, rng_);
  OptimSpec plain_adam;
  plain_adam.kind = OptimSpec::Kind::kAdam;
  Optimizer tail_adam(tail.parameters(), plain_adam);

  LoaderOptions loading;
  loading.batch = std::min<int64_t>(context_.settings.alignment().batch(), data_.train.count());
  loading.seed = rng_.next();
  loading.flip = true;
  Loader loader(data_.train, loading);
  loader.start(0);
  const int64_t steps = context_.settings.alignment().steps(), warm_up = steps / 8;
  Batch batch;
  for (int64_t step = 0, epoch = 0; step < steps; ++step) {
    if (is_checkpoint_step(step, steps)) choose_polarity(kMargin);
    if (!loader.next(batch)) {
      loader.start(++epoch);
      loader.next(batch);
    }
    const int64_t n = batch.images.dim(0);
    const Tensor real =
        backend(context_.device)
            .unary(UnaryOp::kAffine, sampler.next(n).to(context_.device), to_unit, 0);
    const Var raw =
        substitute_.forward(Var(with_polarity(batch.images, polarity_).to(context_.device)));
    const Var z = affine(raw, to_unit, 0);
    Var loss = add(moment_loss(z, wanted), kernel_discrepancy(z, real));
    // Constant, then falling to nothing over the second half.
    const float rate =
        std::min(1.0f, 2.0f - 2.0f * static_cast<float>(step) / static_cast<float>(steps));
    std::string note = "moments " + std::to_string(loss.item()).substr(0, 5);
    if (step >= warm_up) {
      // Hinge loss (Lim and Ye, "Geometric GAN", 2017).
      const auto judge = [&](const Var& f) {
        return cast(critic_->forward(cast(f, context_.dtype)), Dtype::kF32);
      };
      const Var critic_loss = add(mean(relu(affine(judge(Var(real)), -1, 1))),
                                  mean(relu(affine(judge(z.detach()), 1, 1))));
      critic_loss.backward();
      critic_adam.step(kCriticRate * rate);
      require_gradients(*critic_, false);
      loss = sub(loss, mean(judge(z)));
      note = "critic " + std::to_string(critic_loss.item()).substr(0, 5);
    }
    if (with_shadow_) {
      const int64_t some = std::min(n, kShadowBatch);
      const Var scores = tail.forward(outputs(view_, context_.dtype, slice(raw, 0, 0, some)));
      const Var entropy =
          softmax_cross_entropy(scores, batch.labels.rows(0, some).to(context_.device));
      loss = add(loss, entropy);
      note += ", cross-entropy " + std::to_string(entropy.item()).substr(0, 5);
      report(some * static_cast<int64_t>(view_.bodies.size()), note);
    }
    if (!std::isfinite(loss.item())) {
      fail("the alignment diverged: its loss is not finite", candidate_,
           "try another seed, or a larger attack.alignment.batch");
    }
    loss.backward();
    require_gradients(*critic_, true);
    substitute_adam.step(step < warm_up ? kWarmUpRate : kSubstituteRate * rate);
    if (with_shadow_) tail_adam.step(1e-3f * rate);
    report(n, note);
  }
}

// Minus the cross-entropy of a tail fitted to the outputs of all server nets to the substitute's
// features, on public images that the tail has not seen.
double Alignment::criterion(Polarity polarity) {
  constexpr int64_t kBatch = 128;
  constexpr int kEpochs = 15;
  const int64_t total = std::min(data_.train.count(), kCriterionImages), fitted = total * 2 / 3;
  std::vector<Var> parts;
  for (int64_t first = 0; first < total; first += kBatch) {
    NoGrad no_grad;
    const int64_t n = std::min(kBatch, total - first);
    const Var z(features(images_of(data_.train, first, n), polarity));
    parts.push_back(cast(outputs(view_, context_.dtype, z), Dtype::kF32));
    report(n * static_cast<int64_t>(view_.bodies.size()), "choosing the polarity");
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

// The server nets classify best what resembles the features they were trained for.
void Alignment::choose_polarity(double margin) {
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

class AlignmentAttack : public AttackOn<TrafficView> {
 public:
  explicit AlignmentAttack(bool with_shadow) : with_shadow_(with_shadow) {}
  std::string name() const override { return with_shadow_ ? "alignment-shadow" : "alignment"; }
  std::string title() const override {
    return with_shadow_ ? "alignment + shadow cross-entropy" : "feature alignment";
  }

  int64_t cost_in_images(const SplitSetting& setting, const AttackConfig& settings) const override {
    return settings.alignment().restarts() * Alignment::cost(setting, settings, with_shadow_);
  }

  std::vector<Reconstruction> run_on(const TrafficView& view,
                                     const AttackContext& context) override {
    if (!view.traffic.defined() || view.traffic.dim(0) == 0) {
      usage_fail("the alignment has no features to align with", name(),
                 "set attack.observed_features above 0");
    }
    if (smashed_shape(view.model, view.split).rank() != 3) {
      usage_fail("the client sends no maps at this split", name(),
                 "choose a smaller model.head_cells");
    }
    const PublicSplit data = split_public(*view.public_data);
    std::vector<Reconstruction> all(static_cast<size_t>(context.settings.alignment().restarts()));
    run_parallel(
        context.settings.alignment().restarts(), 0,
        [&](int i) {
          const std::string part = "restart " + std::to_string(i + 1);
          all[static_cast<size_t>(i)] = Alignment(view, context, data, with_shadow_, part).run();
        },
        context.device);
    return all;
  }

 private:
  bool with_shadow_;
};

}  // namespace

FeatureMoments feature_moments(std::span<const Tensor> parts, Device device) {
  constexpr int64_t kBatch = 256;
  NoGrad no_grad;
  const Shape shape = parts[0].shape();
  const int64_t c = shape[1], positions = shape[2] * shape[3], row = c * positions;
  std::vector<double> sum(static_cast<size_t>(row)), square_sum(sum.size()),
      gram(static_cast<size_t>(c * c));
  const auto collect = [](std::vector<double>& total, const Tensor& t) {
    const std::vector<float> values = t.to_vector();
    for (size_t i = 0; i < total.size(); ++i) total[i] += values[i];
  };
  int64_t count = 0;
  for (const Tensor& part : parts) {
    count += part.dim(0);
    for (int64_t first = 0; first < part.dim(0); first += kBatch) {
      const Var z(part.rows(first, std::min(kBatch, part.dim(0) - first)).to(device));
      collect(sum, sum_to(z, {1, c, shape[2], shape[3]}).value());
      collect(square_sum, sum_to(square(z), {1, c, shape[2], shape[3]}).value());
      collect(gram, channel_gram(z).value());
    }
  }
  if (count == 0) fail("there are no features", "feature_moments");
  const double n = static_cast<double>(count);
  std::vector<double> channel(static_cast<size_t>(c));
  double variance = 0;
  for (int64_t i = 0; i < row; ++i) {
    const auto k = static_cast<size_t>(i);
    sum[k] /= n;
    square_sum[k] = std::max(0.0, square_sum[k] / n - sum[k] * sum[k]);
    variance += square_sum[k] / static_cast<double>(row);
    channel[static_cast<size_t>(i / positions)] += sum[k] / static_cast<double>(positions);
  }
  FeatureMoments m;
  // Features without any variation: nothing to be learnt from, but nothing to divide by either.
  const double scale = variance > 1e-20 ? std::sqrt(variance) : 1.0;
  m.scale = static_cast<float>(scale);
  m.mean = Tensor::empty({1, c, shape[2], shape[3]});
  m.stddev = Tensor::empty(m.mean.shape());
  m.covariance = Tensor::empty({c, c});
  for (int64_t i = 0; i < row; ++i) {
    const auto k = static_cast<size_t>(i);
    m.mean.data<float>()[i] = static_cast<float>(sum[k] / scale);
    m.stddev.data<float>()[i] = static_cast<float>(std::sqrt(square_sum[k]) / scale);
  }
  for (int64_t a = 0; a < c; ++a) {
    for (int64_t b = 0; b < c; ++b) {
      const double product =
          gram[static_cast<size_t>(a * c + b)] / (n * static_cast<double>(positions));
      m.covariance.data<float>()[a * c + b] = static_cast<float>(
          (product - channel[static_cast<size_t>(a)] * channel[static_cast<size_t>(b)]) /
          (scale * scale));
    }
  }
  m.mean = m.mean.to(device);
  m.stddev = m.stddev.to(device);
  m.covariance = m.covariance.to(device);
  return m;
}

Var moment_loss(const Var& z, const FeatureMoments& wanted) {
  const Shape each = wanted.mean.shape();
  const int64_t c = each[1];
  const Var mean_z = mean_to(z, each);
  // The small number keeps the root's derivative finite where a position never varies.
  const Var variance = relu(sub(mean_to(square(z), each), square(mean_z)));
  const Var stddev = sqrt(affine(variance, 1, 1e-6f));
  const Var level = reshape(mean_to(mean_z, {1, c, 1, 1}), {c, 1});
  const float n = static_cast<float>(z.shape().numel() / c);
  const Var covariance =
      sub(affine(channel_gram(z), 1.0f / n, 0), matmul(level, level, false, true));
  return add(add(affine(mse(mean_z, Var(wanted.mean)), 10, 0),
                 affine(mse(stddev, Var(wanted.stddev)), 10, 0)),
             affine(mse(covariance, Var(wanted.covariance)), 100, 0));
}

Var kernel_discrepancy(const Var& x, const Tensor& y) {
  const Var a = flatten(x), b = flatten(Var(y));
  const auto norms = [](const Var& v) { return sum_to(square(v), {v.dim(0), 1}); };
  const Var na = norms(a), nb = norms(b);
  // Squared distances of the rows: |p|^2 + |q|^2 - 2 p q.
  const auto distances = [](const Var& p, const Var& np, const Var& q, const Var& nq) {
    const Var products = affine(matmul(p, q, false, true), -2, 0);
    return relu(add(add(products, np), reshape(nq, {1, q.dim(0)})));
  };
  const Var dyy = distances(b, nb, b, nb);
  const float scale = std::max(mean(dyy).item(), 1e-12f);
  const auto kernel = [&](const Var& d) {
    Var total;
    for (float k : {0.25f, 0.5f, 1.0f, 2.0f, 4.0f}) {
      const Var e = exp(affine(d, -1.0f / (k * scale), 0));
      total = total.defined() ? add(total, e) : e;
    }
    return affine(mean(total), 0.2f, 0);
  };
  const Var cross = kernel(distances(a, na, b, nb));
  return add(add(kernel(distances(a, na, a, na)), kernel(dyy)), affine(cross, -2, 0));
}

std::unique_ptr<SplitAttack> alignment_attack(bool with_shadow) {
  return std::make_unique<AlignmentAttack>(with_shadow);
}

std::unique_ptr<SplitAttack> alignment_attack() { return alignment_attack(false); }

}  // namespace ens
