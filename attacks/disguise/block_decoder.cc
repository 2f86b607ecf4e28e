// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/block_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// How many blocks a side of both maps is cut into: of about 4 pixels of the smaller one.
int64_t blocks_along(int64_t a, int64_t b) {
  const int64_t common = std::gcd(a, b);
  int64_t blocks = std::max<int64_t>(1, std::min(a, b) / 4);
  while (common % blocks != 0) --blocks;
  return blocks;
}

}  // namespace

std::string BlockLinear::no_grid_reason(const Shape& from, const Shape& to) {
  if (from.rank() != 3 || to.rank() != 3) return "the disguised rows are no pictures";
  constexpr int64_t kMostWeights = int64_t{1} << 24;
  const int64_t t = blocks_along(from[1], to[1]) * blocks_along(from[2], to[2]);
  if (from.numel() / t * to.numel() > kMostWeights) {
    return "images " + from.str() + " and rows " + to.str() + " have no blocks in common";
  }
  return "";
}

BlockLinear::BlockLinear(const Shape& from, const Shape& to, Rng& rng)
    : from_(from),
      to_(to),
      rows_(blocks_along(from[1], to[1])),
      columns_(blocks_along(from[2], to[2])) {
  const int64_t t = rows_ * columns_, in = from.numel() / t, out = to.numel() / t;
  Tensor weight = Tensor::empty({t, in, out});
  rng.fill_normal(weight.span<float>(), 0, 1 / std::sqrt(static_cast<float>(in)));
  weight_ = add_parameter("weight", weight);
  bias_ = add_parameter("bias", Tensor::zeros({t, 1, out}));
}

Var BlockLinear::cut(const Var& x, const Shape& shape) const {
  const int64_t b = x.dim(0), h = shape[1] / rows_, w = shape[2] / columns_;
  const Var grid = permute(reshape(cast(x, Dtype::kF32), {b, shape[0], rows_, h, columns_, w}),
                           {2, 4, 0, 1, 3, 5});
  return reshape(grid, {rows_ * columns_, b, shape[0] * h * w});
}

Var BlockLinear::forward(const Var& x) {
  const int64_t b = x.dim(0), h = to_[1] / rows_, w = to_[2] / columns_;
  const Var y = ens::add(matmul(cut(x, from_), weight_), bias_);
  return reshape(permute(reshape(y, {rows_, columns_, b, to_[0], h, w}), {2, 3, 0, 4, 1, 5}),
                 {b, to_[0], to_[1], to_[2]});
}

void BlockLinear::start_as_identity() {
  Tensor weight = Tensor::zeros(weight_.shape());
  const int64_t in = weight.dim(1), out = weight.dim(2);
  for (int64_t i = 0; i < weight.dim(0); ++i) {
    for (int64_t e = 0; e < std::min(in, out); ++e)
      weight.data<float>()[(i * in + e) * out + e] = 1;
  }
  weight_.mutable_value().copy_from(weight);
}

Var BlockLinear::covariance_of(const Var& outputs) const {
  const Var blocks = cut(outputs, to_);
  const Var centred = sub(blocks, mean_to(blocks, {blocks.dim(0), 1, blocks.dim(2)}));
  return affine(matmul(centred, centred, true), 1 / static_cast<float>(outputs.dim(0)), 0);
}

BlockDecoder::BlockDecoder(const Shape& row, const Shape& image, const DecoderConfig& settings,
                           Rng& rng) {
  blocks_ = add("blocks", std::make_shared<BlockLinear>(row, image, rng));
  if (row == image) blocks_->start_as_identity();
  decoder_ =
      add("decoder", std::make_shared<Decoder>(
                         image, image, DecoderSize{settings.channels(), settings.blocks()}, rng));
}

Var BlockDecoder::forward(const Var& rows) { return decoder_->forward(blocks_->forward(rows)); }

RowScale::RowScale(const Tensor& rows) {
  double sum = 0, squares = 0;
  for (const float v : rows.span<float>()) sum += v, squares += double{v} * v;
  const auto n = static_cast<double>(rows.numel());
  mean = static_cast<float>(sum / n);
  deviation = static_cast<float>(std::sqrt(std::max(1e-12, squares / n - sum / n * (sum / n))));
}

Tensor RowScale::apply(const Tensor& rows) const {
  Tensor out = rows.to(Device{}).plain().clone();
  for (float& v : out.span<float>()) v = (v - mean) / deviation;
  return out;
}

std::shared_ptr<BlockDecoder> train_block_decoder(const Shape& row, const Shape& image,
                                                  const AttackContext& context, const Dataset& data,
                                                  const std::function<Tensor(const Tensor&)>& rows,
                                                  uint64_t seed, const std::string& label) {
  const DecoderConfig& settings = context.settings.decoder();
  const DecoderLoss kind = parse_decoder_loss(settings.loss());
  Rng rng(seed, "block decoder");
  auto decoder = std::make_shared<BlockDecoder>(row, image, settings, rng);
  decoder->to(context.device);
  Optimizer optimizer(decoder->parameters(), {.kind = OptimSpec::Kind::kAdam});
  LoaderOptions loading;
  loading.batch = std::min<int64_t>(context.settings.batch(), data.count());
  loading.seed = rng.next();
  loading.flip = true;
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the decoder of " + label;
  fitting.epochs = settings.epochs();
  fitting.lr = static_cast<float>(settings.lr());
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Tensor images = b.images.to(context.device);
        const Var z(rows(images).to(context.device));
        return decoder_loss(kind, decoder->forward(z), images);
      },
      [&](int64_t images, double loss) {
        context.report(images, fmt::format("{}: decoder, loss {:.4f}", label, loss));
      },
      nullptr);
  decoder->freeze();
  return decoder;
}

Tensor decode_rows(BlockDecoder& decoder, const Shape& image, const AttackContext& context,
                   const Tensor& rows) {
  constexpr int64_t kBatch = 128;
  const NoGrad no_grad;
  Tensor images = Tensor::empty(batched(rows.dim(0), image));
  for (int64_t first = 0; first < rows.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, rows.dim(0) - first);
    images.rows(first, n).copy_from(
        decoder.forward(Var(rows.rows(first, n).to(context.device))).value());
  }
  for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
  return images;
}

}  // namespace ens
