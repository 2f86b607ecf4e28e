// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "attacks/core/decoder.h"
#include "attacks/shares/equations.h"
#include "attacks/shares/views.h"
#include "base/error.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Images [K * G,C,H,W] -> the K images of each virtual batch as one of K * C channels, and back.
Tensor rearranged(const Tensor& from, int64_t outer, int64_t inner, const Shape& shape) {
  Tensor out = Tensor::empty(shape);
  const int64_t size = shape.numel() / (outer * inner);
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      std::copy_n(from.data<float>() + (j * outer + i) * size, size,
                  out.data<float>() + (i * inner + j) * size);
    }
  }
  return out;
}

Tensor by_group(const Tensor& images, int64_t inputs) {
  const int64_t groups = images.dim(0) / inputs;
  return rearranged(images, groups, inputs,
                    {groups, inputs * images.dim(1), images.dim(2), images.dim(3)});
}

Tensor by_input(const Tensor& grouped, int64_t inputs) {
  const int64_t groups = grouped.dim(0);
  return rearranged(grouped, inputs, groups,
                    {inputs * groups, grouped.dim(1) / inputs, grouped.dim(2), grouped.dim(3)});
}

std::vector<std::vector<uint32_t>> residues_of(const std::vector<Tensor>& shares) {
  std::vector<std::vector<uint32_t>> out;
  for (const Tensor& share : shares) {
    const auto values = share.span<int32_t>();
    out.emplace_back(values.begin(), values.end());
  }
  return out;
}

class ShareDecoder : public ShareAttack {
 public:
  ShareDecoder(std::string name, std::string title, KnowledgeLevel level, bool solves)
      : name_(std::move(name)), title_(std::move(title)), level_(level), solves_(solves) {}
  std::string name() const override { return name_; }
  std::string title() const override { return title_; }
  KnowledgeLevel level() const override { return level_; }
  AttackCost cost(const ShareSetting& setting, const AttackConfig& settings) const override {
    if (solves_ && setting.shares >= setting.inputs + setting.noises) return {};
    const int64_t batch = batch_of(settings, setting.public_images, setting.inputs);
    return {.decoders = setting.public_images / batch * batch * settings.decoder().epochs()};
  }

  std::vector<Reconstruction> run_on(const WorkerView& view,
                                     const AttackContext& context) override {
    if (!view.code) fail("the shares are real numbers", name(), "use share-ica");
    const LagrangeCode& code = *view.code;
    if (view.shares.empty()) fail("no share", name(), "a coalition has one worker or more");
    std::optional<ShareEquations> equations;
    if (solves_ && std::ssize(view.shares) > code.noises()) equations.emplace(code, view.shares);
    Reconstruction r;
    r.candidate = std::to_string(view.shares.size()) + " shares";
    r.images = equations && equations->determined()
                   ? view.coding.to_images(solve(*equations, code, view.observed[0].shape(),
                                                 residues_of(view.observed)))
                   : decode(view, code, equations, context);
    r.images = r.images.rows(0, view.images);
    return {r};
  }

 private:
  using Residues = std::vector<std::vector<uint32_t>>;

  static int64_t batch_of(const AttackConfig& settings, int64_t images, int inputs) {
    return std::max<int64_t>(std::min<int64_t>(settings.batch(), images) / inputs, 1) * inputs;
  }

  // The inputs [K * G,C,H,W], kI32, of shares [G,C,H,W].
  static Tensor solve(const ShareEquations& equations, const LagrangeCode& code, const Shape& shape,
                      const Residues& shares) {
    const std::vector<std::span<const uint32_t>> rows(shares.begin(), shares.end());
    Tensor integers =
        Tensor::empty({code.inputs() * shape[0], shape[1], shape[2], shape[3]}, Dtype::kI32);
    std::ranges::copy(equations.solve(rows), integers.data<int32_t>());
    return integers;
  }

  // What the decoder reads, [G, channels of all shares or inputs,H,W]: residues with mean 0 and
  // variance 1 where they are uniform; integers over 127.
  static Tensor features_of(const std::optional<ShareEquations>& equations,
                            const LagrangeCode& code, const Shape& shape, const Residues& shares) {
    if (equations) {
      const Tensor integers = solve(*equations, code, shape, shares);
      Tensor inputs = Tensor::empty(integers.shape());
      std::ranges::transform(integers.span<int32_t>(), inputs.data<float>(),
                             [](int32_t v) { return static_cast<float>(v) / 127; });
      return by_group(inputs, code.inputs());
    }
    const double largest = code.noises() == 0 ? 127 : code.field().prime() / 2;
    Tensor out = Tensor::empty({std::ssize(shares) * shape[0], shape[1], shape[2], shape[3]});
    float* to = out.data<float>();
    for (const auto& share : shares) {
      for (const uint32_t v : share) {
        *to++ = static_cast<float>(code.field().centred(v) / largest * std::sqrt(3.0));
      }
    }
    return by_group(out, std::ssize(shares));
  }

  static Tensor decode(const WorkerView& view, const LagrangeCode& code,
                       const std::optional<ShareEquations>& equations,
                       const AttackContext& context) {
    const DecoderConfig& settings = context.settings.decoder();
    const DecoderLoss loss = parse_decoder_loss(settings.loss());
    Rng rng(context.seed, "share decoder");
    const Shape image = view.model.input_shape();
    const Shape several{code.inputs() * image[0], image[1], image[2]};
    const int64_t inputs = code.inputs(), count = std::ssize(view.shares);
    const int64_t channels = (equations ? inputs : count) * image[0];
    if (view.public_data->count() < inputs) {
      usage_fail("fewer public images than offload.virtual_batch", "attack.public_images");
    }
    const auto decoder =
        std::make_shared<Decoder>(Shape{channels, image[1], image[2]}, several,
                                  DecoderSize{settings.channels(), settings.blocks()}, rng);
    decoder->to(context.device);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    Optimizer optimizer(decoder->parameters(), adam);
    LoaderOptions loading;
    loading.batch = batch_of(context.settings, view.public_data->count(), code.inputs());
    loading.seed = rng.next();
    loading.device = context.device;
    loading.flip = true;
    Loader loader(*view.public_data, loading);
    FitOptions fitting;
    fitting.label = "the decoder of " + std::to_string(count) + " shares";
    fitting.epochs = settings.epochs();
    fitting.lr = static_cast<float>(settings.lr());
    fit(
        fitting, loader, optimizer,
        [&](const Batch& b) {
          const Tensor here = b.images.to(Device{}).plain();
          const Shape coded{here.dim(0) / inputs, here.dim(1), here.dim(2), here.dim(3)};
          const Tensor shares = features_of(equations, code, coded, view.encode(here, rng));
          const Var z(shares.to(context.device).to(context.dtype));
          return decoder_loss(loss, decoder->forward(z), by_group(here, inputs).to(context.device));
        },
        [&](int64_t images, double value) {
          context.report(images, "decoder, loss " + std::to_string(value).substr(0, 6));
        },
        nullptr);
    decoder->freeze();
    NoGrad no_grad;
    const Tensor features =
        features_of(equations, code, view.observed[0].shape(), residues_of(view.observed));
    Tensor images = Tensor::empty(batched(features.dim(0), several));
    constexpr int64_t kBatch = 128;
    for (int64_t first = 0; first < features.dim(0); first += kBatch) {
      const int64_t n = std::min(kBatch, features.dim(0) - first);
      const Var z(features.rows(first, n).to(context.device).to(context.dtype));
      images.rows(first, n).copy_from(decoder->forward(z).value());
    }
    for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
    return by_input(images, inputs);
  }

  const std::string name_, title_;
  const KnowledgeLevel level_;
  const bool solves_;
};

}  // namespace

std::unique_ptr<ShareAttack> share_decoder_attack() {
  return std::make_unique<ShareDecoder>("oracle", "decoder on the shares of colluding clouds",
                                        WorkerView::kLevel, true);
}

std::unique_ptr<ShareAttack> share_yardstick_attack() {
  return std::make_unique<ShareDecoder>("without-noise", "the same decoder on inputs without noise",
                                        WorkerView::kLevel, false);
}

std::unique_ptr<ShareAttack> share_floor_attack() {
  return std::make_unique<ShareDecoder>("uniform-numbers", "the same decoder on uniform numbers",
                                        KnowledgeLevel::kBlind, false);
}

}  // namespace ens
