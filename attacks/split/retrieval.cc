// SPDX-License-Identifier: Apache-2.0
// Retrieval with unlimited queries: the mean of the public images x_j, weighted by how well each
// explains the feature z that the client sent,
//   x = sum_j w_j x_j,  w_j ~ exp(-|z - z_j|^2 / 2t),
// with z_j the client's own feature of x_j, in the mean of many queries where it draws noise. That
// is the posterior mean for a prior that knows nothing but the public images; the temperature t (a
// Gaussian noise's variance, or where features are deterministic how far one image stands for its
// neighbours) is chosen on held-out pairs. Where features hold few bits, a deep decoder must not
// lose to it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "nn/autograd/ops.h"

namespace ens {
namespace {

// Temperatures that are tried, in units of the median squared distance from a held-out feature to
// the nearest public one. The largest weighs all images alike.
constexpr double kTemperatures[] = {0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 1000};

// |q - z|^2 of every row of q [Q,...] and z [J,...] -> [Q,J]. Both are centred first: what all
// features share, a fixed noise among it, would cost digits.
Tensor distances(const Tensor& q, const Tensor& z, const Tensor& centre) {
  const auto rows = [&](const Tensor& t) { return flatten(sub(Var(t), Var(centre))); };
  const Var a = rows(q), b = rows(z);
  const auto norms = [](const Var& v) { return sum_to(square(v), {v.dim(0), 1}); };
  const Var products = affine(matmul(a, b, false, true), -2, 0);
  return relu(add(add(products, norms(a)), reshape(norms(b), {1, b.dim(0)}))).value();
}

// exp(-d / 2t), each row brought to the sum 1.
Tensor weights(const Tensor& d, double t) {
  Tensor w = d.clone();
  const int64_t columns = d.dim(1);
  for (int64_t i = 0; i < d.dim(0); ++i) {
    const std::span<float> row(w.data<float>() + i * columns, static_cast<size_t>(columns));
    const float least = *std::ranges::min_element(row);
    double sum = 0;
    for (float& v : row) sum += v = static_cast<float>(std::exp((least - v) / (2 * t)));
    for (float& v : row) v = static_cast<float>(v / sum);
  }
  return w;
}

class Retrieval : public AttackOn<BlackBoxView> {
 public:
  std::string name() const override { return "retrieval"; }
  std::string title() const override { return "retrieval among public images"; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig&) const override {
    return {.decoders =
                queried_pairs(setting.public_images, smashed_shape(setting.model, setting.split)) /
                kQueriesPerImage};
  }

  std::vector<Reconstruction> run_on(const BlackBoxView& view,
                                     const AttackContext& context) override {
    NoGrad no_grad;
    const auto [images, features] = query_pairs(view, context, view.public_data->count(), name());
    const int64_t held = held_out_count(images.dim(0)), known = images.dim(0) - held;
    const Tensor truth = images.rows(0, held);
    const Tensor candidates = images.rows(held, known);
    Tensor z = features.rows(held, known);
    if (view.mean_query) {
      constexpr int64_t kBatch = 128;
      for (int64_t first = 0; first < known; first += kBatch) {
        const int64_t n = std::min(kBatch, known - first);
        z.rows(first, n).copy_from(view.mean_query(candidates.rows(first, n)));
      }
    }
    Shape one = z.shape();
    one.set(0, 1);
    const Tensor centre = mean_to(Var(z), one).value().plain();
    const Tensor judged = distances(features.rows(0, held), z, centre);
    const auto blend = [&](const Tensor& d, double t) {
      const Var x = matmul(Var(weights(d, t)), flatten(Var(candidates)));
      Shape shape = images.shape();
      shape.set(0, d.dim(0));
      Tensor blended = x.value().plain().reshape(shape);
      for (float& pixel : blended.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
      return blended;
    };
    const double unit = std::max(median_of_least(judged), 1e-12);
    double best = 0, least = std::numeric_limits<double>::infinity();
    for (const double t : kTemperatures) {
      const double loss =
          decoder_loss(DecoderLoss::kBoth, Var(blend(judged, t * unit)), truth).item();
      if (loss < least) least = loss, best = t * unit;
    }
    Reconstruction r;
    r.candidate = "posterior mean";
    r.images = blend(distances(view.observed.to(Device{}).plain(), z, centre), best);
    r.calibration_images = blend(judged, best);
    r.calibration_targets = truth;
    return {r};
  }

 private:
  static double median_of_least(const Tensor& d) {
    std::vector<float> least;
    for (int64_t i = 0; i < d.dim(0); ++i) {
      least.push_back(std::ranges::min(d.rows(i, 1).span<float>()));
    }
    std::ranges::nth_element(least, least.begin() + std::ssize(least) / 2);
    return least[least.size() / 2];
  }
};

}  // namespace

std::unique_ptr<SplitAttack> retrieval_attack() { return std::make_unique<Retrieval>(); }

}  // namespace ens
