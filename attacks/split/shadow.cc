// SPDX-License-Identifier: Apache-2.0
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
int64_t start_images(const AttackConfig& settings, int64_t train_images) {
  return std::min<int64_t>(settings.shadow().start_images(), train_images);
}

// The client's head, then 3x3 convolutions that absorb the client's noise; the server nets; a tail.
class ShadowNet : public Module {
 public:
  ShadowNet(const ServerView& view, const AttackContext& context, const std::vector<int>& nets,
            bool weighted, Rng& rng)
      : view_(view) {
    const Shape smashed = smashed_shape(view.model, view.split);
    const int64_t c = smashed[0];
    const int64_t inside =
        context.settings.shadow().channels() > 0 ? context.settings.shadow().channels() : c;
    auto head = build_head(view.model, view.split, rng);
    for (int i = 0; i < context.settings.shadow().layers(); ++i) {
      const int64_t in = i == 0 ? c : inside,
                    out = i == context.settings.shadow().layers() - 1 ? c : inside;
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
    to(context.device);
    if (view.channel) noise_ = Rng(rng.next());
  }

  // As a client with this head would send them, or in the mean over what it would draw.
  Var features(const Var& images, bool in_the_mean = false) {
    return cast(view_.sent(head_->forward(images), in_the_mean ? nullptr : &noise_),
                images.value().dtype());
  }

  // Logits from features.
  Var classify(const Var& z) {
    std::vector<Var> outputs;
    for (const auto& body : bodies_) outputs.push_back(body->forward(z));
    return tail_->forward(weights_.defined() ? weighted_outputs(std::move(outputs), weights_)
                                             : concat(outputs, 1));
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
  const ServerView& view_;
  Rng noise_;
  std::vector<std::shared_ptr<Sequential>> bodies_;  // the server's, frozen
  std::shared_ptr<Sequential> head_, tail_;
  Var weights_;
};

}  // namespace

Var weighted_outputs(std::vector<Var> outputs, const Var& weights) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    Var& f = outputs[i];
    Shape one = f.shape();
    for (int axis = 0; axis < one.rank(); ++axis) one.set(axis, 1);
    const Var w = reshape(slice(weights, 0, static_cast<int64_t>(i), 1), one);
    f = mul(f, cast(w, f.value().dtype()));
  }
  return concat(outputs, 1);
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

void train_on(ShadowNet& shadow, const ServerView& view, const AttackContext& context,
              const Dataset& data, int epochs, int64_t passes, uint64_t seed,
              const std::string& candidate) {
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(shadow.parameters(), adam);
  LoaderOptions loading;
  loading.batch = context.settings.batch();
  loading.seed = seed;
  loading.device = context.device;
  if (context.settings.shadow().augment()) {
    loading.flip = true;
    loading.crop_padding = view.model.image_size / 8;
  }
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the shadow of " + candidate;
  fitting.epochs = epochs;
  fitting.lr = static_cast<float>(context.settings.shadow().lr());
  fitting.capture = !view.channel;  // whose noise is drawn on the host
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Var x(b.images.to(context.device).to(context.dtype));
        const Tensor labels = b.labels.to(context.device);
        const Var z = shadow.features(x);
        if (static_cast<float>(context.settings.shadow().bn_weight()) == 0)
          return softmax_cross_entropy(shadow.classify(z), labels);
        BatchNormProbe probe;  // of the server nets: the shadow's own are in training mode
        const Var loss = softmax_cross_entropy(shadow.classify(z), labels);
        if (probe.entries().empty()) return loss;  // nets without batch norm
        return add(loss, affine(statistics_mismatch(probe),
                                static_cast<float>(context.settings.shadow().bn_weight()), 0));
      },
      [&](int64_t images, double loss) {
        {
          context.report(images * passes,
                         candidate + ": shadow, loss " + std::to_string(loss).substr(0, 5));
        }
      },
      nullptr);
}

struct Judged {
  double accuracy = 0, cross_entropy = 0;
};

Judged judge(ShadowNet& shadow, const AttackContext& context, const Dataset& data) {
  NoGrad no_grad;
  shadow.train(false);
  Judged out;
  constexpr int64_t kBatch = 128;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    const int64_t n = std::min(kBatch, data.count() - first);
    const double share = static_cast<double>(n) / static_cast<double>(data.count());
    const Var x(images_of(data, first, n).to(context.device).to(context.dtype));
    const Tensor labels = labels_of(data, first, n).to(context.device);
    const Var logits = shadow.forward(x);
    out.accuracy += share * accuracy(logits.value(), labels);
    out.cross_entropy += share * softmax_cross_entropy(logits, labels).item();
  }
  shadow.train(true);
  return out;
}

}  // namespace

TrainedShadow train_shadow(const ServerView& view, const AttackContext& context,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& candidate, const TrainedShadow* from) {
  const int starts = from ? 1 : context.settings.shadow().starts();
  const int64_t passes = std::ssize(nets);
  std::vector<std::shared_ptr<ShadowNet>> shadows(static_cast<size_t>(starts));
  std::vector<double> scores(shadows.size());
  const Dataset first_images =
      data.train.head(starts > 1 ? start_images(context.settings, data.train.count()) : 0);
  run_parallel(
      starts, 0,
      [&](int i) {
        const auto at = static_cast<size_t>(i);
        Rng rng(context.seed, "shadow/" + candidate + "/" + std::to_string(i));
        shadows[at] = std::make_shared<ShadowNet>(view, context, nets, weighted, rng);
        if (from) shadows[at]->load_head(from->head);
        if (starts == 1) return;
        train_on(*shadows[at], view, context, first_images, 1, passes, rng.next(), candidate);
        scores[at] = -judge(*shadows[at], context, data.held_out).cross_entropy;
      },
      context.device);
  const auto best = std::ranges::max_element(scores) - scores.begin();
  const std::shared_ptr<ShadowNet> shadow = shadows[static_cast<size_t>(best)];
  Rng rng(context.seed, "shadow order/" + candidate);
  train_on(*shadow, view, context, data.train, context.settings.shadow().epochs(), passes,
           rng.next(), candidate);
  const Judged judged = judge(*shadow, context, data.held_out);
  shadow->freeze();
  TrainedShadow out;
  out.features = [shadow](const Var& images) { return shadow->features(images); };
  out.mean_features = [shadow](const Var& images) { return shadow->features(images, true); };
  out.logits = [shadow](const Var& images) { return shadow->forward(images); };
  out.head = shadow->head();
  out.selector = shadow->selector();
  out.accuracy = judged.accuracy;
  out.cross_entropy = judged.cross_entropy;
  return out;
}

namespace {

Reconstruction decode_through(const TrainedShadow& shadow, const QueryFreeView& view,
                              const AttackContext& context, const PublicSplit& data,
                              const std::string& candidate) {
  const auto features = [&](const Tensor& images) {
    NoGrad no_grad;
    return shadow.features(Var(images.to(context.device).to(context.dtype))).value();
  };
  Rng rng(context.seed, "shadow decoder/" + candidate);
  auto decoder = train_decoder(view, context, data.train, features, rng.next(), candidate,
                               {.capture = !view.channel});
  Reconstruction r;
  r.candidate = candidate;
  r.shadow_accuracy = shadow.accuracy;
  r.self_score = -shadow.cross_entropy;
  r.images = decode(*decoder, view, context, view.observed);
  r.calibration_targets = images_of(data.held_out, 0, data.held_out.count());
  r.calibration_images = decode(*decoder, view, context, features(r.calibration_targets));
  return r;
}

}  // namespace

Reconstruction shadow_reconstruction(const QueryFreeView& view, const AttackContext& context,
                                     const PublicSplit& data, const std::vector<int>& nets,
                                     bool weighted, const std::string& candidate) {
  return decode_through(train_shadow(view, context, data, nets, weighted, candidate), view, context,
                        data, candidate);
}

std::vector<Reconstruction> shadow_reconstructions(const QueryFreeView& view,
                                                   const AttackContext& context,
                                                   const PublicSplit& data,
                                                   const std::vector<std::vector<int>>& subsets) {
  const int count = static_cast<int>(subsets.size());
  std::vector<TrainedShadow> shadows(subsets.size());
  std::vector<double> merits(subsets.size());
  run_parallel(
      count, 0,
      [&](int i) {
        const auto at = static_cast<size_t>(i);
        shadows[at] =
            train_shadow(view, context, data, subsets[at], false, subset_name(subsets[at]));
        merits[at] = -shadows[at].cross_entropy;
      },
      context.device);
  const std::vector<size_t> best = best_of(merits, decoded_candidates(context.settings, count));
  std::vector<Reconstruction> all(best.size());
  run_parallel(
      static_cast<int>(best.size()), 0,
      [&](int i) {
        const size_t at = best[static_cast<size_t>(i)];
        all[static_cast<size_t>(i)] =
            decode_through(shadows[at], view, context, data, subset_name(subsets[at]));
      },
      context.device);
  return all;
}

int64_t shadow_passes(const AttackConfig& settings, int64_t train_images) {
  const ShadowConfig& shadow = settings.shadow();
  const int64_t starts =
      shadow.starts() > 1 ? shadow.starts() * start_images(settings, train_images) : 0;
  return starts + shadow.epochs() * train_images;
}

AttackCost shadow_cost(const SplitSetting& setting, const AttackConfig& settings,
                       int64_t net_passes, int64_t decoders) {
  const int64_t images = training_images(setting);
  return {.nets = net_passes * shadow_passes(settings, images),
          .decoders = images * settings.decoder().epochs() * decoders};
}

std::string one_net_only(const SplitSetting& setting) {
  return setting.nets > 1 ? "" : "one server net only";
}

}  // namespace ens
