#include "attacks/shadow.h"

#include <algorithm>
#include <utility>

#include "nn/core/backend.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// The client's head, then more 3x3 convolutions that absorb the client's noise.
class ShadowNet : public Module {
 public:
  ShadowNet(const AdversaryView& view, const AttackOptions& options, std::vector<int> nets,
            bool weighted, Rng& rng)
      : nets_(std::move(nets)), bodies_(view.bodies) {
    const int64_t c = smashed_shape(view.model, view.split)[0];
    const int64_t inside = options.shadow_channels > 0 ? options.shadow_channels : c;
    auto head = std::make_shared<Sequential>();
    head->push(build_head(view.model, view.split, rng));
    for (int i = 0; i < options.shadow_layers; ++i) {
      const int64_t in = i == 0 ? c : inside, out = i + 1 == options.shadow_layers ? c : inside;
      head->push(std::make_shared<Conv2d>(in, out, 3, ConvSpec{1, 1}, false, rng));
      head->push(std::make_shared<BatchNorm>(out, true));
    }
    head_ = add("head", head);
    const int64_t n = static_cast<int64_t>(nets_.size());
    tail_ = add("tail", build_tail(view.model, view.split, rng, static_cast<int>(n)));
    if (weighted)
      weights_ = add_parameter("selector", Tensor::full({n}, 1.0f / static_cast<float>(n)));
  }

  Var features(const Var& images) { return head_->forward(images); }

  Var forward(const Var& images) override {
    const Var z = features(images);
    std::vector<Var> answers;
    for (size_t i = 0; i < nets_.size(); ++i) {
      Var f = bodies_[static_cast<size_t>(nets_[i])]->forward(z);
      if (weights_.defined()) {
        Shape one = f.shape();
        for (int axis = 0; axis < one.rank(); ++axis) one.set(axis, 1);
        const Var w = reshape(slice(weights_, 0, static_cast<int64_t>(i), 1), one);
        f = mul(f, cast(w, f.value().dtype()));
      }
      answers.push_back(f);
    }
    return tail_->forward(concat(answers, 1));
  }

 private:
  std::vector<int> nets_;
  std::vector<std::shared_ptr<Sequential>> bodies_;  // the server's, frozen
  std::shared_ptr<Sequential> head_, tail_;
  Var weights_;
};

double classify_accuracy(ShadowNet& net, const AdversaryView& view, const Dataset& data) {
  NoGrad no_grad;
  const Var x(images_of(data, 0, data.count()).to(view.device).to(view.dtype));
  return accuracy(net.forward(x).value(), labels_of(data, 0, data.count()));
}

// Shadow training, decoder training, reconstruction for one choice of server nets.
Reconstruction attack_with(const AdversaryView& view, const AttackOptions& options,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& part) {
  const TrainedShadow shadow = train_shadow(view, options, data, nets, weighted, part);
  const auto features = [&](const Tensor& images) {
    NoGrad no_grad;
    return shadow.features(Var(images.to(view.device).to(view.dtype))).value();
  };
  Rng rng(view.seed, "shadow decoder/" + part);
  auto decoder = train_decoder(view, options, data.train, features, rng.next(), part);
  Reconstruction r;
  r.part = part;
  r.shadow_accuracy = shadow.accuracy;
  r.images = decode(*decoder, view, view.observed);
  r.own_truth = images_of(data.held_out, 0, data.held_out.count());
  r.own_images = decode(*decoder, view, features(r.own_truth));
  return r;
}

// Images through networks for `shadows` shadows over `nets_each` server nets.
int64_t shadow_work(const AdversaryView& view, const AttackOptions& options, int64_t shadows,
                    int64_t nets_each) {
  const int64_t images = view.public_data->count() - held_out_count(*view.public_data);
  return shadows * images * (options.shadow_epochs * nets_each + options.decoder_epochs);
}

class ShadowN1 : public Attack {
 public:
  std::string name() const override { return "shadow-n1"; }
  std::string title() const override { return "shadow + decoder, N=1"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return shadow_work(view, options, static_cast<int64_t>(view.bodies.size()), 1);
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    const PublicSplit data = split_public(*view.public_data);
    const int count = static_cast<int>(view.bodies.size());
    std::vector<Reconstruction> all(view.bodies.size());
    run_side_by_side(count, 0, [&](int i) {
      all[static_cast<size_t>(i)] =
          attack_with(view, options, data, {i}, false, "net " + std::to_string(i));
    });
    return all;
  }
};

class ShadowAdaptive : public Attack {
 public:
  std::string name() const override { return "shadow-adaptive"; }
  std::string title() const override { return "shadow + decoder, adaptive"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return shadow_work(view, options, 1, static_cast<int64_t>(view.bodies.size()));
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    const PublicSplit data = split_public(*view.public_data);
    std::vector<int> nets(view.bodies.size());
    for (size_t i = 0; i < nets.size(); ++i) nets[i] = static_cast<int>(i);
    return {attack_with(view, options, data, nets, true, "all nets")};
  }
};

}  // namespace

TrainedShadow train_shadow(const AdversaryView& view, const AttackOptions& options,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& part) {
  Rng rng(view.seed, "shadow/" + part);
  auto shadow = std::make_shared<ShadowNet>(view, options, nets, weighted, rng);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(shadow->parameters(), adam);
  LoaderOptions loading;
  loading.batch = options.batch;
  loading.seed = rng.next();
  if (options.shadow_augment) {
    loading.flip = true;
    loading.crop_padding = view.model.image_size / 8;
  }
  Loader loader(data.train, loading);
  FitOptions fitting;
  fitting.label = "the shadow of " + part;
  fitting.epochs = options.shadow_epochs;
  fitting.lr = options.lr;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Var x(b.images.to(view.device).to(view.dtype));
        return softmax_cross_entropy(shadow->forward(x), b.labels.to(view.device));
      },
      [&](int64_t images, double loss) {
        if (options.on_progress) {
          options.on_progress(images * static_cast<int64_t>(nets.size()),
                              part + ": shadow, loss " + std::to_string(loss).substr(0, 5));
        }
      },
      nullptr);
  shadow->freeze();
  return {[shadow](const Var& images) { return shadow->features(images); },
          classify_accuracy(*shadow, view, data.held_out)};
}

std::unique_ptr<Attack> shadow_n1_attack() { return std::make_unique<ShadowN1>(); }
std::unique_ptr<Attack> shadow_adaptive_attack() { return std::make_unique<ShadowAdaptive>(); }

}  // namespace ens
