#include "attacks/split/inverse.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attacks/core/linear_decoder.h"
#include "attacks/split/decoding.h"
#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/models/decoder.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

class Oracle : public Attack {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "oracle decoder (true features)"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kBlackBox; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return (view.public_data->count() - held_out_count(*view.public_data)) * options.decoder_epochs;
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    if (!view.query) fail("the oracle needs the client's features", name(), "use a black-box view");
    const PublicSplit data = split_public(*view.public_data);
    auto decoder = train_decoder(view, options, data.train, view.query, view.seed, name());
    Reconstruction r;
    r.part = "client's features";
    r.images = decode(*decoder, view, view.observed);
    r.own_truth = images_of(data.held_out, 0, data.held_out.count());
    r.own_images = decode(*decoder, view, view.query(r.own_truth));
    return {r};
  }
};

// ---- known pairs

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

  PairTraining(int64_t n, int64_t epochs_wanted, const AttackOptions& options) {
    constexpr int64_t kLeastSteps = 600;
    batch = std::min(options.batch, n);
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
  const AdversaryView& view;
  const AttackOptions& options;
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
      return batch.to(view.device);
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
          if (options.on_progress) {
            options.on_progress(images, label + ", loss " + std::to_string(loss).substr(0, 6));
          }
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

class KnownPairs : public Attack {
 public:
  std::string name() const override { return "known-pairs"; }
  std::string title() const override { return "decoder on known pairs"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kKnownPairs; }
  int64_t wants_pairs(const AttackOptions& options) const override {
    return options.pairs.empty() ? 0 : std::ranges::max(options.pairs);
  }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    int64_t images = 0;
    for (int64_t m : pair_counts(options, available(view))) {
      const int64_t n = m - held_out_of(m);
      if (m > 1) images += PairTraining(n, options.decoder_epochs, options).images(n);
      if (!copies(view, m)) continue;
      images += copy_training(n, options).images(n);
      images +=
          (view.public_data->count() - held_out_count(*view.public_data)) * options.decoder_epochs;
    }
    return images;
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    if (!view.pair_images.defined()) {
      fail("no known pairs", name(), "use a known-pairs view");
    }
    const Tensor images = view.pair_images.to(Device{}).plain();
    const Tensor features = view.pair_features.to(Device{}).plain();
    std::vector<Reconstruction> curve;
    for (int64_t m : pair_counts(options, available(view))) {
      const Pairs pairs{images.rows(0, m), features.rows(0, m), held_out_of(m)};
      Candidate best = linear(view, pairs);
      const auto try_another = [&](Candidate c) {
        if (c.error < best.error) best = std::move(c);
      };
      if (m > 1) try_another(network(view, options, pairs));
      if (copies(view, m)) try_another(copy(view, options, pairs));
      Reconstruction r;
      r.part = "m = " + std::to_string(m) + ": " + best.kind;
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

  static int64_t available(const AdversaryView& view) {
    return view.pair_images.defined() ? view.pair_images.dim(0)
                                      : std::numeric_limits<int64_t>::max();
  }

  static Candidate linear(const AdversaryView& view, const Pairs& pairs) {
    auto decoder =
        std::make_shared<LinearDecoder>(pairs.images, pairs.features, pairs.held_out, view.seed);
    return {"linear", decoder->held_out_error(), [decoder](const Tensor& features) {
              return decoder->decode(features.to(Device{}).plain());
            }};
  }

  static Candidate network(const AdversaryView& view, const AttackOptions& options,
                           const Pairs& pairs) {
    const std::string m = std::to_string(pairs.count());
    Rng rng(view.seed, "known pairs/" + m);
    const Shape smashed = smashed_shape(view.model, view.split);
    auto decoder =
        build_decoder(smashed, view.model.input_shape(), decoder_width(smashed, options), rng);
    decoder->to(view.device);
    const auto judged = [&] {
      return squared_error(
          decode(*decoder, view, pairs.features.rows(pairs.known(), pairs.held_out)),
          pairs.images.rows(pairs.known(), pairs.held_out));
    };
    const PairTraining plan(pairs.known(), options.decoder_epochs, options);
    const double error = PairFit{view, options, "inverse network of " + m + " pairs", view.dtype}(
        *decoder, pairs.features, pairs.images, pairs.known(), plan, options.lr, rng.next(),
        judged);
    return {"inverse network", error, [decoder, &view](const Tensor& features) {
              return ens::decode(*decoder, view, features);
            }};
  }

  static PairTraining copy_training(int64_t n, const AttackOptions& options) {
    return PairTraining(n, 1, options);
  }

  // Fits the client's head, whose architecture is known, to the pairs; what the features have
  // beyond it at every position is taken for a fixed noise.
  static Candidate copy(const AdversaryView& view, const AttackOptions& options,
                        const Pairs& pairs) {
    constexpr float kRate = 1e-2f;  // few weights, far to go
    const std::string m = std::to_string(pairs.count());
    const std::string label = "copied head of " + m + (pairs.count() == 1 ? " pair" : " pairs");
    Rng rng(view.seed, "known pairs, head/" + m);
    auto head = build_head(view.model, view.split, rng);
    head->to(view.device);
    const auto features = [&](const Tensor& images) {
      NoGrad no_grad;
      return head->forward(Var(images.to(view.device))).value().to(Device{}).plain();
    };
    // One pair cannot be held out from itself.
    const int64_t first = pairs.held_out > 0 ? pairs.known() : 0, n = pairs.count() - first;
    const Tensor judge_images = pairs.images.rows(first, n);
    const Tensor judge_features = pairs.features.rows(first, n);
    PairFit{view, options, label, Dtype::kF32}(
        *head, pairs.images, pairs.features, pairs.known(), copy_training(pairs.known(), options),
        kRate, rng.next(), [&] { return squared_error(features(judge_images), judge_features); });
    const Tensor noise = fixed_part(pairs, features);
    const PublicSplit data = split_public(*view.public_data);
    const auto noisy = [&](const Tensor& images) {
      return backend(Device{}).binary(BinaryOp::kAdd, features(images), noise);
    };
    auto decoder = train_decoder(view, options, data.train, noisy, rng.next(), label);
    return {"copied head", squared_error(ens::decode(*decoder, view, judge_features), judge_images),
            [decoder, &view](const Tensor& z) { return ens::decode(*decoder, view, z); }};
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
  static bool copies(const AdversaryView& view, int64_t m) {
    if (m != 1) return m <= kMostCopied;
    int64_t weights = 0;
    Rng rng = Rng::blank();
    for (const NamedVar& p : build_head(view.model, view.split, rng)->parameters()) {
      weights += p.var.shape().numel();
    }
    return 4 * weights <= smashed_shape(view.model, view.split).numel();
  }
};

}  // namespace

std::vector<int64_t> pair_counts(const AttackOptions& options, int64_t available) {
  std::vector<int64_t> counts;
  for (int64_t m : options.pairs) {
    if (m > 0 && available > 0) counts.push_back(std::min(m, available));
  }
  std::ranges::sort(counts);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

std::unique_ptr<Attack> oracle_attack() { return std::make_unique<Oracle>(); }
std::unique_ptr<Attack> known_pairs_attack() { return std::make_unique<KnownPairs>(); }

}  // namespace ens
