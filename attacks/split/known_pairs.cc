// SPDX-License-Identifier: Apache-2.0
// Decoders on known pairs of image and feature (He et al., ACSAC 2019, section 4.3).
//
// With m known pairs, for every m of attack.known_pairs.counts: a curve. For each m the attacker
// tries a linear decoder, an inverse network on the pairs, and (up to a thousand pairs) a copy of
// the client's head fitted to the pairs, on whose features of its public images an inverse network
// is trained; it keeps what reconstructs best some pairs that were held out. Never chosen with the
// truth.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attacks/core/linear_decoder.h"
#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Pairs on the CPU, the last of them held out to choose by.
struct Pairs {
  Tensor images, features;  // [m,...]
  int64_t held_out = 0;

  int64_t count() const { return images.dim(0); }
  int64_t known() const { return count() - held_out; }
};

// A fifth of few, a tenth of many.
int64_t held_out_of(int64_t m) {
  if (m < 2) return 0;
  return std::clamp<int64_t>(std::max(std::min<int64_t>(m / 5, 20), m / 10), 1, 256);
}

// How an inverse network or a copied head is trained on n pairs: few pairs need many epochs.
struct PairTraining {
  int64_t batch, epochs;

  PairTraining(int64_t n, int64_t epochs_wanted, const AttackConfig& settings) {
    constexpr int64_t kLeastSteps = 600;
    batch = std::min<int64_t>(settings.batch(), n);
    epochs = std::max(epochs_wanted, (kLeastSteps * batch + n - 1) / n);
  }
  int64_t images(int64_t n) const { return n / batch * batch * epochs; }
};

double squared_error(const Tensor& a, const Tensor& b) {
  NoGrad no_grad;
  return mse(Var(a), Var(b)).item();
}

// Trains `net` on the known pairs, input and target being [m,...] tensors, and keeps the state that
// has the least error on those held out (judged ten times on the way).
struct PairFit {
  const ServerView& view;
  const AttackContext& context;
  std::string label;
  Dtype dtype;

  // Returns the least error, as `judge` measures it.
  double operator()(Module& net, const Tensor& inputs, const Tensor& targets, int64_t known,
                    const PairTraining& plan, float lr, uint64_t seed,
                    const std::function<double()>& judge) const {
    // The loader shuffles positions: a label is the number of a pair.
    Dataset numbers;
    numbers.channels = numbers.height = numbers.width = 1;
    numbers.pixels.resize(static_cast<size_t>(known));
    numbers.labels.resize(static_cast<size_t>(known));
    std::iota(numbers.labels.begin(), numbers.labels.end(), 0);
    LoaderOptions loading;
    loading.batch = plan.batch;
    loading.seed = seed;
    loading.prefetch = 0;
    Loader loader(numbers, loading);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    adam.amsgrad = true;
    Optimizer optimizer(net.parameters(), adam);
    FitOptions fitting;
    fitting.label = label;
    fitting.epochs = plan.epochs;
    fitting.lr = lr;
    const auto rows = [&](const Tensor& from, const Tensor& which) {
      Shape shape = from.shape();
      shape.set(0, which.dim(0));
      Tensor batch = Tensor::empty(shape);
      for (int64_t i = 0; i < which.dim(0); ++i) {
        batch.rows(i, 1).copy_from(from.rows(which.data<int32_t>()[i], 1));
      }
      return batch.to(context.device);
    };
    double least = std::numeric_limits<double>::infinity();
    std::vector<NamedTensor> best;
    fit(
        fitting, loader, optimizer,
        [&](const Batch& b) {
          const Var x(rows(inputs, b.labels).to(dtype));
          return mse(net.forward(x), Var(rows(targets, b.labels)));
        },
        [&](int64_t images, double loss) {
          context.report(images, label + ", loss " + std::to_string(loss).substr(0, 6));
        },
        [&](const EpochStats& stats) {
          const int64_t done = stats.epoch + 1;
          if (done * 10 / plan.epochs == stats.epoch * 10 / plan.epochs) return;
          net.train(false);
          const double error = judge();
          net.train();
          if (error >= least) return;
          least = error;
          best = net.state();
          for (NamedTensor& t : best) t.tensor = t.tensor.clone();
        });
    if (!best.empty()) net.load_state(best, label);
    net.freeze();
    return least;
  }
};

// A head of the client's form; its output as the client sends it, in the mean over what is drawn.
class CopiedHead : public Module {
 public:
  CopiedHead(const ServerView& view, Rng& rng)
      : view_(view), head_(add("head", build_head(view.model, view.split, rng))) {}
  Var forward(const Var& images) override { return view_.sent(head_->forward(images), nullptr); }
  Tensor sent(const Tensor& images, Rng& noise) {
    const NoGrad no_grad;
    return view_.sent(head_->forward(Var(images)), &noise).value();
  }

 private:
  const ServerView& view_;
  std::shared_ptr<Sequential> head_;
};

class KnownPairs : public AttackOn<KnownPairsView> {
 public:
  std::string name() const override { return "known-pairs"; }
  std::string title() const override { return "decoder on known pairs"; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    AttackCost cost;
    for (int64_t m : pair_counts(settings, setting.public_images)) {
      const int64_t n = m - held_out_of(m);
      if (m > 1) cost.decoders += PairTraining(n, settings.decoder().epochs(), settings).images(n);
      if (!copies(setting.model, setting.split, m)) continue;
      cost.nets += copy_training(n, settings).images(n);
      cost.decoders += training_images(setting) * settings.decoder().epochs();
    }
    return cost;
  }

  std::vector<Reconstruction> run_on(const KnownPairsView& view,
                                     const AttackContext& context) override {
    if (!view.pair_images.defined()) {
      fail("no known pairs", name(), "use a known-pairs view");
    }
    const Tensor images = view.pair_images.to(Device{}).plain();
    const Tensor features = view.pair_features.to(Device{}).plain();
    std::vector<Reconstruction> curve;
    for (int64_t m : pair_counts(context.settings, view.pair_images.dim(0))) {
      const Pairs pairs{images.rows(0, m), features.rows(0, m), held_out_of(m)};
      Candidate best = linear(context, pairs);
      const auto try_another = [&](Candidate c) {
        if (c.error < best.error) best = std::move(c);
      };
      if (m > 1) try_another(network(view, context, pairs));
      if (copies(view.model, view.split, m)) try_another(copy(view, context, pairs));
      Reconstruction r;
      r.candidate = "m = " + std::to_string(m) + ": " + best.kind;
      r.x = static_cast<double>(m);
      r.images = best.decode(view.observed);
      curve.push_back(std::move(r));
    }
    return curve;
  }

 private:
  static constexpr int64_t kMostCopied = 1000;

  // A way to reconstruct, and its squared error on what was held out.
  struct Candidate {
    std::string kind;
    double error;
    std::function<Tensor(const Tensor& features)> decode;
  };

  static Candidate linear(const AttackContext& context, const Pairs& pairs) {
    auto decoder =
        std::make_shared<LinearDecoder>(pairs.images, pairs.features, pairs.held_out, context.seed);
    return {"linear", decoder->held_out_error(), [decoder](const Tensor& features) {
              return decoder->decode(features.to(Device{}).plain());
            }};
  }

  static Candidate network(const ServerView& view, const AttackContext& context,
                           const Pairs& pairs) {
    const std::string m = std::to_string(pairs.count());
    Rng rng(context.seed, "known pairs/" + m);
    const auto decoder = new_decoder(view, context.settings.decoder(), rng);
    decoder->to(context.device);
    const auto judged = [&] {
      return squared_error(
          decode(*decoder, view, context, pairs.features.rows(pairs.known(), pairs.held_out)),
          pairs.images.rows(pairs.known(), pairs.held_out));
    };
    const PairTraining plan(pairs.known(), context.settings.decoder().epochs(), context.settings);
    const double error =
        PairFit{view, context, "inverse network of " + m + " pairs", context.dtype}(
            *decoder, pairs.features, pairs.images, pairs.known(), plan,
            static_cast<float>(context.settings.decoder().lr()), rng.next(), judged);
    return {"inverse network", error, [decoder, &view, &context](const Tensor& features) {
              return ens::decode(*decoder, view, context, features);
            }};
  }

  static PairTraining copy_training(int64_t n, const AttackConfig& settings) {
    return PairTraining(n, 1, settings);
  }

  // Fits the client's head, whose architecture is known, to the pairs; what the features have
  // beyond it at every position is taken for a fixed noise.
  static Candidate copy(const ServerView& view, const AttackContext& context, const Pairs& pairs) {
    constexpr float kRate = 1e-2f;  // few weights, far to go
    const std::string m = std::to_string(pairs.count());
    const std::string label = "copied head of " + m + (pairs.count() == 1 ? " pair" : " pairs");
    Rng rng(context.seed, "known pairs, head/" + m);
    CopiedHead head(view, rng);
    head.to(context.device);
    const auto features = [&](const Tensor& images) {
      NoGrad no_grad;
      return head.forward(Var(images.to(context.device))).value().to(Device{}).plain();
    };
    // One pair cannot be held out from itself.
    const int64_t first = pairs.held_out > 0 ? pairs.known() : 0, n = pairs.count() - first;
    const Tensor judge_images = pairs.images.rows(first, n);
    const Tensor judge_features = pairs.features.rows(first, n);
    PairFit{view, context, label, Dtype::kF32}(
        head, pairs.images, pairs.features, pairs.known(),
        copy_training(pairs.known(), context.settings), kRate, rng.next(),
        [&] { return squared_error(features(judge_images), judge_features); });
    const Tensor noise = fixed_part(pairs, features);
    const PublicSplit data = split_public(*view.public_data);
    const auto noisy = [&](const Tensor& images) {
      if (view.channel) return head.sent(images.to(context.device), rng);
      return backend(Device{}).binary(BinaryOp::kAdd, features(images), noise);
    };
    auto decoder = train_decoder(view, context, data.train, noisy, rng.next(), label);
    return {"copied head",
            squared_error(ens::decode(*decoder, view, context, judge_features), judge_images),
            [decoder, &view, &context](const Tensor& z) {
              return ens::decode(*decoder, view, context, z);
            }};
  }

  // The mean over the known pairs of what the copied head does not explain, [1,C,h,w], shrunk as
  // far as it may be chance (James and Stein, 1961): residuals that differ from pair to pair are
  // the copy's own errors.
  static Tensor fixed_part(const Pairs& pairs,
                           const std::function<Tensor(const Tensor& images)>& features) {
    const int64_t n = pairs.known(), size = pairs.features.numel() / pairs.count();
    std::vector<double> sums(static_cast<size_t>(size));
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      const Tensor explained = features(pairs.images.rows(i, 1));
      const float* z = pairs.features.data<float>() + i * size;
      for (int64_t j = 0; j < size; ++j) {
        const double rest = z[j] - explained.data<float>()[j];
        sums[static_cast<size_t>(j)] += rest;
        squares += rest * rest;
      }
    }
    double of_means = 0;  // the squared means, summed over the elements
    for (double& s : sums) {
      s /= static_cast<double>(n);
      of_means += s * s;
    }
    double keep = 1;
    if (n > 1 && of_means > 0) {
      const double chance =
          (squares / static_cast<double>(n) - of_means) / static_cast<double>(n - 1);
      keep = std::max(0.0, 1 - chance / of_means);
    }
    Shape one = pairs.features.shape();
    one.set(0, 1);
    Tensor noise = Tensor::empty(one);
    for (int64_t j = 0; j < size; ++j) {
      noise.data<float>()[j] = static_cast<float>(keep * sums[static_cast<size_t>(j)]);
    }
    return noise;
  }

  // Whether pairs determine the head at all: a single one has to be believed without a test.
  static bool copies(const ModelSpec& model, const Split& split, int64_t m) {
    if (m != 1) return m <= kMostCopied;
    int64_t weights = 0;
    Rng rng = Rng::blank();
    for (const NamedVar& p : build_head(model, split, rng)->parameters()) {
      weights += p.var.shape().numel();
    }
    return 4 * weights <= smashed_shape(model, split).numel();
  }
};

}  // namespace

std::unique_ptr<SplitAttack> known_pairs_attack() { return std::make_unique<KnownPairs>(); }

}  // namespace ens
