#include "attacks/split/shadow.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// How many images each of several starts sees.
int64_t start_images(const AttackOptions& options, int64_t train_images) {
  return std::min(options.shadow_start_images, train_images);
}

// The client's head, then 3x3 convolutions that absorb the client's noise; the server nets; a tail.
class ShadowNet : public Module {
 public:
  ShadowNet(const AdversaryView& view, const AttackOptions& options, const std::vector<int>& nets,
            bool weighted, Rng& rng) {
    const Shape smashed = smashed_shape(view.model, view.split);
    const int64_t c = smashed[0];
    const int64_t inside = options.shadow_channels > 0 ? options.shadow_channels : c;
    auto head = build_head(view.model, view.split, rng);
    for (int i = 0; i < options.shadow_layers; ++i) {
      const int64_t in = i == 0 ? c : inside, out = i == options.shadow_layers - 1 ? c : inside;
      head->push("absorb" + std::to_string(i),
                 std::make_shared<Conv2d>(in, out, 3, ConvSpec{1, 1}, false, rng));
      head->push("absorb" + std::to_string(i) + "_bn", std::make_shared<BatchNorm>(out, true));
    }
    head_ = add("head", head);
    for (int net : nets) bodies_.push_back(view.bodies[static_cast<size_t>(net)]);
    const int copies = static_cast<int>(nets.size());
    tail_ = add("tail", build_tail(view.model, view.split, rng, copies));
    if (weighted)
      weights_ =
          add_parameter("selector", Tensor::full({copies}, 1.0f / static_cast<float>(copies)));
    to(view.device);
  }

  Var features(const Var& images) { return head_->forward(images); }

  // Logits from features.
  Var classify(const Var& z) {
    std::vector<Var> answers;
    for (const auto& body : bodies_) answers.push_back(body->forward(z));
    return tail_->forward(weights_.defined() ? weighted_answers(std::move(answers), weights_)
                                             : concat(answers, 1));
  }

  Var forward(const Var& images) override { return classify(features(images)); }

  std::vector<NamedTensor> head() const { return head_->state(); }
  void load_head(const std::vector<NamedTensor>& state) {
    head_->load_state(state, "another shadow");
  }
  std::vector<float> selector() const {
    return weights_.defined() ? weights_.value().to_vector() : std::vector<float>();
  }

 private:
  std::vector<std::shared_ptr<Sequential>> bodies_;  // the server's, frozen
  std::shared_ptr<Sequential> head_, tail_;
  Var weights_;
};

}  // namespace

Var weighted_answers(std::vector<Var> answers, const Var& weights) {
  for (size_t i = 0; i < answers.size(); ++i) {
    Var& f = answers[i];
    Shape one = f.shape();
    for (int axis = 0; axis < one.rank(); ++axis) one.set(axis, 1);
    const Var w = reshape(slice(weights, 0, static_cast<int64_t>(i), 1), one);
    f = mul(f, cast(w, f.value().dtype()));
  }
  return concat(answers, 1);
}

Var statistics_mismatch(const BatchNormProbe& probe) {
  Var total;
  for (const BatchNormProbe::Entry& e : probe.entries()) {
    const Device device = e.mean.device();
    const Var one(Tensor::full(e.mean.shape(), 1.0f, Dtype::kF32, device));
    const Var zero(Tensor::zeros(e.mean.shape(), Dtype::kF32, device));
    const Var x = batch_norm_eval(e.input, one, zero, e.mean, e.var, 1e-5f, false);
    Shape channels = x.shape();
    for (int axis = 0; axis < channels.rank(); ++axis) {
      if (axis != 1) channels.set(axis, 1);
    }
    const Var first = mean_to(x, channels);
    // Rounding may leave a constant channel a negative variance; at 0 the root has no slope.
    const Var spread =
        sqrt(affine(relu(sub(mean_to(square(x), channels), square(first))), 1, 1e-4f));
    const Var term = add(ens::mean(square(first)), ens::mean(square(affine(spread, 1, -1))));
    total = total.defined() ? add(total, term) : term;
  }
  if (!total.defined()) fail("the probe saw no batch norm", "statistics_mismatch");
  return affine(total, 1.0f / static_cast<float>(probe.entries().size()), 0);
}

std::string subset_name(const std::vector<int>& nets) {
  std::string name = nets.size() == 1 ? "net " : "nets ";
  for (size_t i = 0; i < nets.size(); ++i) name += (i ? "+" : "") + std::to_string(nets[i]);
  return name;
}

namespace {

void train_on(ShadowNet& shadow, const AdversaryView& view, const AttackOptions& options,
              const Dataset& data, int epochs, int64_t passes, uint64_t seed,
              const std::string& part) {
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(shadow.parameters(), adam);
  LoaderOptions loading;
  loading.batch = options.batch;
  loading.seed = seed;
  loading.device = view.device;
  if (options.shadow_augment) {
    loading.flip = true;
    loading.crop_padding = view.model.image_size / 8;
  }
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the shadow of " + part;
  fitting.epochs = epochs;
  fitting.lr = options.shadow_lr;
  fitting.capture = true;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Var x(b.images.to(view.device).to(view.dtype));
        const Tensor labels = b.labels.to(view.device);
        const Var z = shadow.features(x);
        if (options.shadow_bn_weight == 0) return softmax_cross_entropy(shadow.classify(z), labels);
        BatchNormProbe probe;  // of the server nets: the shadow's own are in training mode
        const Var loss = softmax_cross_entropy(shadow.classify(z), labels);
        if (probe.entries().empty()) return loss;  // nets without batch norm
        return add(loss, affine(statistics_mismatch(probe), options.shadow_bn_weight, 0));
      },
      [&](int64_t images, double loss) {
        if (options.on_progress) {
          options.on_progress(images * passes,
                              part + ": shadow, loss " + std::to_string(loss).substr(0, 5));
        }
      },
      nullptr);
}

struct Judged {
  double accuracy = 0, cross_entropy = 0;
};

Judged judge(ShadowNet& shadow, const AdversaryView& view, const Dataset& data) {
  NoGrad no_grad;
  shadow.train(false);
  Judged out;
  constexpr int64_t kBatch = 128;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    const int64_t n = std::min(kBatch, data.count() - first);
    const double share = static_cast<double>(n) / static_cast<double>(data.count());
    const Var x(images_of(data, first, n).to(view.device).to(view.dtype));
    const Tensor labels = labels_of(data, first, n).to(view.device);
    const Var logits = shadow.forward(x);
    out.accuracy += share * accuracy(logits.value(), labels);
    out.cross_entropy += share * softmax_cross_entropy(logits, labels).item();
  }
  shadow.train(true);
  return out;
}

}  // namespace

TrainedShadow train_shadow(const AdversaryView& view, const AttackOptions& options,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& part, const TrainedShadow* from) {
  const int starts = from ? 1 : options.shadow_starts;
  const int64_t passes = std::ssize(nets);
  std::vector<std::shared_ptr<ShadowNet>> shadows(static_cast<size_t>(starts));
  std::vector<double> merits(shadows.size());
  const Dataset first_images =
      data.train.head(starts > 1 ? start_images(options, data.train.count()) : 0);
  run_parallel(
      starts, 0,
      [&](int i) {
        const auto at = static_cast<size_t>(i);
        Rng rng(view.seed, "shadow/" + part + "/" + std::to_string(i));
        shadows[at] = std::make_shared<ShadowNet>(view, options, nets, weighted, rng);
        if (from) shadows[at]->load_head(from->head);
        if (starts == 1) return;
        train_on(*shadows[at], view, options, first_images, 1, passes, rng.next(), part);
        merits[at] = -judge(*shadows[at], view, data.held_out).cross_entropy;
      },
      view.device);
  const auto best = std::ranges::max_element(merits) - merits.begin();
  const std::shared_ptr<ShadowNet> shadow = shadows[static_cast<size_t>(best)];
  Rng rng(view.seed, "shadow order/" + part);
  train_on(*shadow, view, options, data.train, options.shadow_epochs, passes, rng.next(), part);
  const Judged judged = judge(*shadow, view, data.held_out);
  shadow->freeze();
  TrainedShadow out;
  out.features = [shadow](const Var& images) { return shadow->features(images); };
  out.logits = [shadow](const Var& images) { return shadow->forward(images); };
  out.head = shadow->head();
  out.selector = shadow->selector();
  out.accuracy = judged.accuracy;
  out.cross_entropy = judged.cross_entropy;
  return out;
}

Reconstruction shadow_reconstruction(const AdversaryView& view, const AttackOptions& options,
                                     const PublicSplit& data, const std::vector<int>& nets,
                                     bool weighted, const std::string& part) {
  const TrainedShadow shadow = train_shadow(view, options, data, nets, weighted, part);
  const auto features = [&](const Tensor& images) {
    NoGrad no_grad;
    return shadow.features(Var(images.to(view.device).to(view.dtype))).value();
  };
  Rng rng(view.seed, "shadow decoder/" + part);
  auto decoder = train_decoder(view, options, data.train, features, rng.next(), part,
                               /*capture=*/true);
  Reconstruction r;
  r.part = part;
  r.shadow_accuracy = shadow.accuracy;
  r.merit = -shadow.cross_entropy;
  r.images = decode(*decoder, view, view.observed);
  r.own_truth = images_of(data.held_out, 0, data.held_out.count());
  r.own_images = decode(*decoder, view, features(r.own_truth));
  return r;
}

int64_t shadow_passes(const AttackOptions& options, int64_t train_images) {
  const int64_t starts =
      options.shadow_starts > 1 ? options.shadow_starts * start_images(options, train_images) : 0;
  return starts + options.shadow_epochs * train_images;
}

int64_t shadow_work(const AdversaryView& view, const AttackOptions& options, int64_t net_passes,
                    int64_t decoders) {
  const int64_t images = view.public_data->count() - held_out_count(*view.public_data);
  return net_passes * shadow_passes(options, images) + images * options.decoder_epochs * decoders;
}

std::string one_net_only(const AdversaryView& view) {
  return view.bodies.size() > 1 ? "" : "one server net only";
}

namespace {

class ShadowN1 : public Attack {
 public:
  std::string name() const override { return "shadow-n1"; }
  std::string title() const override { return "shadow + decoder, N=1"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
  bool through_bodies() const override { return true; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    const int64_t n = static_cast<int64_t>(view.bodies.size());
    return shadow_work(view, options, n, n);
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    const PublicSplit data = split_public(*view.public_data);
    std::vector<Reconstruction> all(view.bodies.size());
    run_parallel(
        static_cast<int>(all.size()), 0,
        [&](int i) {
          all[static_cast<size_t>(i)] =
              shadow_reconstruction(view, options, data, {i}, false, subset_name({i}));
        },
        view.device);
    return all;
  }
};

class ShadowAdaptive : public Attack {
 public:
  std::string name() const override { return "shadow-adaptive"; }
  std::string title() const override { return "shadow + decoder, adaptive"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
  bool through_bodies() const override { return true; }
  std::string pointless(const AdversaryView& view) const override { return one_net_only(view); }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return shadow_work(view, options, static_cast<int64_t>(view.bodies.size()), 1);
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    std::vector<int> nets(view.bodies.size());
    std::iota(nets.begin(), nets.end(), 0);
    return {shadow_reconstruction(view, options, split_public(*view.public_data), nets, true,
                                  "all nets")};
  }
};

class ShadowSubset : public Attack {
 public:
  std::string name() const override { return "shadow-subset"; }
  std::string title() const override {
    return chosen_ ? "shadow + decoder, chosen subset"
                   : "shadow + decoder, the secret subset known";
  }
  // Beyond it only the subset, which the title names: the client's weights stay secret.
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
  bool through_bodies() const override { return true; }
  bool wants_subset() const override { return true; }
  std::string pointless(const AdversaryView& view) const override { return one_net_only(view); }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return shadow_work(view, options, std::ssize(nets_of(view, options)), 1);
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    chosen_ = !options.subset.empty();
    const std::vector<int> nets = nets_of(view, options);
    // The secret one is not named: parts' names reach logs and reports.
    return {shadow_reconstruction(view, options, split_public(*view.public_data), nets, false,
                                  chosen_ ? subset_name(nets) : "the secret nets")};
  }

 private:
  static std::vector<int> nets_of(const AdversaryView& view, const AttackOptions& options) {
    std::vector<int> nets = options.subset.empty() ? view.subset : options.subset;
    if (nets.empty()) fail("the view grants no subset", "shadow-subset", "set attack.subset");
    std::ranges::sort(nets);
    const int count = static_cast<int>(view.bodies.size());
    if (nets.front() < 0 || nets.back() >= count ||
        std::ranges::adjacent_find(nets) != nets.end()) {
      usage_fail("not a subset of " + std::to_string(count) + " server nets", "attack.subset",
                 "give different numbers from 0 to " + std::to_string(count - 1));
    }
    return nets;
  }

  bool chosen_ = false;
};

}  // namespace

std::unique_ptr<Attack> shadow_n1_attack() { return std::make_unique<ShadowN1>(); }
std::unique_ptr<Attack> shadow_adaptive_attack() { return std::make_unique<ShadowAdaptive>(); }
std::unique_ptr<Attack> shadow_subset_attack() { return std::make_unique<ShadowSubset>(); }

}  // namespace ens
