#include <algorithm>
#include <cmath>

#include "attacks/core/decoder.h"
#include "attacks/shares/views.h"
#include "base/error.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Residues [B,C,H,W] of each share -> one map with the channels of all, of mean 0 and variance 1
// where they are uniform.
Tensor features_of(const std::vector<std::vector<uint32_t>>& shares, uint32_t prime,
                   const Shape& shape) {
  const int64_t images = shape[0], one = shape.numel() / images, count = std::ssize(shares);
  Tensor out = Tensor::empty({images, count * shape[1], shape[2], shape[3]});
  float* to = out.data<float>();
  for (int64_t b = 0; b < images; ++b) {
    for (const auto& share : shares) {
      for (int64_t i = 0; i < one; ++i) {
        const double u = (share[static_cast<size_t>(b * one + i)] + 0.5) / prime;
        *to++ = static_cast<float>((u - 0.5) * std::sqrt(12.0));
      }
    }
  }
  return out;
}

std::vector<uint32_t> residues_of(const Tensor& share) {
  const auto values = share.span<int32_t>();
  return {values.begin(), values.end()};
}

class ShareDecoder : public AttackOn<WorkerView> {
 public:
  std::string name() const override { return "share-decoder"; }
  std::string title() const override { return "decoder on the shares of colluding workers"; }
  int64_t cost_in_images(const ShareSetting& setting, const AttackConfig& settings) const override {
    return setting.public_images * settings.decoder().epochs();
  }

  std::vector<Reconstruction> run_on(const WorkerView& view,
                                     const AttackContext& context) override {
    const LagrangeCode& code = view.code.at(0);
    if (code.inputs() != 1)
      usage_fail("the attack is written for K = 1", name(), "set offload.virtual_batch=1");
    Reconstruction r;
    r.candidate = std::to_string(view.shares.size()) + " shares";
    if (static_cast<int>(view.shares.size()) >= code.needed()) {
      r.images = solve(view, code);
    } else if (view.shares.empty()) {
      fail("no share", name(), "a coalition has one worker or more");
    } else {
      r.images = decode(view, code, context);
    }
    return {r};
  }

 private:
  static Tensor solve(const WorkerView& view, const LagrangeCode& code) {
    const auto needed = static_cast<size_t>(code.needed());
    const std::vector<int> some(view.shares.begin(), view.shares.begin() + code.needed());
    std::vector<std::vector<uint32_t>> shares;
    for (size_t i = 0; i < needed; ++i) shares.push_back(residues_of(view.observed[i]));
    const std::vector<std::span<const uint32_t>> rows(shares.begin(), shares.end());
    std::vector<uint32_t> input(shares[0].size());
    combine(code.field(), code.decoding(some)[0], rows, input);
    Tensor integers = Tensor::empty(view.observed[0].shape(), Dtype::kI32);
    to_integers(code.field(), input, integers.span<int32_t>());
    return view.coding.to_images(integers);
  }

  static Tensor decode(const WorkerView& view, const LagrangeCode& code,
                       const AttackContext& context) {
    const DecoderConfig& settings = context.settings.decoder();
    const DecoderLoss loss = parse_decoder_loss(settings.loss());
    Rng rng(context.seed, "share decoder");
    const Shape image = view.model.input_shape();
    const auto count = std::ssize(view.shares);
    const auto decoder =
        std::make_shared<Decoder>(Shape{count * image[0], image[1], image[2]}, image,
                                  DecoderSize{settings.channels(), settings.blocks()}, rng);
    decoder->to(context.device);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    Optimizer optimizer(decoder->parameters(), adam);
    LoaderOptions loading;
    loading.batch = std::min<int64_t>(context.settings.batch(), view.public_data->count());
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
          const Tensor shares =
              features_of(view.encode(here, rng), code.field().prime(), here.shape());
          const Var z(shares.to(context.device).to(context.dtype));
          return decoder_loss(loss, decoder->forward(z), b.images.to(context.device));
        },
        [&](int64_t images, double value) {
          context.report(images, "decoder, loss " + std::to_string(value).substr(0, 6));
        },
        nullptr);
    decoder->freeze();
    NoGrad no_grad;
    std::vector<std::vector<uint32_t>> recorded;
    for (const Tensor& share : view.observed) recorded.push_back(residues_of(share));
    const Tensor features = features_of(recorded, code.field().prime(), view.observed[0].shape());
    Tensor images = Tensor::empty(batched(features.dim(0), image));
    constexpr int64_t kBatch = 128;
    for (int64_t first = 0; first < features.dim(0); first += kBatch) {
      const int64_t n = std::min(kBatch, features.dim(0) - first);
      const Var z(features.rows(first, n).to(context.device).to(context.dtype));
      images.rows(first, n).copy_from(decoder->forward(z).value());
    }
    for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
    return images;
  }
};

}  // namespace

std::unique_ptr<AttackOn<WorkerView>> share_decoder_attack() {
  return std::make_unique<ShareDecoder>();
}

}  // namespace ens
