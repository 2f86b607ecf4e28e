// SPDX-License-Identifier: Apache-2.0
// Which disguised image is which of the private ones, without one pair (challenge 1 of NeuraCrypt;
// Carlini et al., "NeuraCrypt is not private", arXiv 2108.07256). As theirs, it undoes the order of
// the codes, needs a small advantage, and then trains a copy of the encoder on the pairs that it
// believes in, which turns the advantage into certainty. The advantage here is that
// a random network nearly keeps distances (tokens.h), so that images are matched as a graph, first
// by the distances of whole images, then by those of every position.
#include <fmt/format.h>

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "attacks/disguise/image_graph.h"
#include "attacks/disguise/patch_decoder.h"
#include "attacks/disguise/registry.h"
#include "attacks/disguise/tokens.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "nn/modules/layers.h"
#include "nn/optim/optim.h"
#include "nn/optim/schedule.h"

namespace ens {
namespace {

constexpr int64_t kToPlace = 200;  // images whose distances say which position a slot is
constexpr int64_t kAnchors = 250;  // images to which distances are compared by position
constexpr int kMostRefined = 6;
constexpr int64_t kBatch = 32;  // images a step
constexpr float kRate = 1e-3f;

// The rows `order[i]` of a tensor.
Tensor picked(const Tensor& from, std::span<const int64_t> order) {
  Shape shape = from.shape();
  shape.set(0, std::ssize(order));
  Tensor out = Tensor::empty(shape);
  for (int64_t i = 0; i < std::ssize(order); ++i) {
    out.rows(i, 1).copy_from(from.rows(order[static_cast<size_t>(i)], 1));
  }
  return out;
}

// A network of the owner's form, trained on pairs.
class EncoderCopy : public Module {
 public:
  EncoderCopy(int64_t n, int64_t q, const NeuracryptConfig& form, Rng& rng) {
    const int64_t d = form.width();
    first_ = add("first", std::make_shared<Sequential>());
    first_->push(std::make_shared<Linear>(q, d, true, rng));
    first_->push(std::make_shared<Activation>(UnaryOp::kRelu));
    for (int i = 0; i < form.depth(); ++i) {
      first_->push(std::make_shared<Linear>(d, d, true, rng));
      first_->push(std::make_shared<BatchNorm>(d, true));
    }
    Tensor start = Tensor::empty({1, n, d});
    rng.fill_normal(start.span<float>(), 0, 1);
    positions_ = add_parameter("positions", start);
    last_ = add("last", std::make_shared<Linear>(d, d, true, rng));
  }
  // patches [B,n,q] -> codes [B,n,d]
  Var forward(const Var& x) override {
    const int64_t b = x.dim(0), n = x.dim(1), d = positions_.dim(2);
    const Var hidden = first_->forward(reshape(x, {b * n, x.dim(2)}));
    const Var placed =
        relu(ens::add(reshape(hidden, {b, n, d}), cast(positions_, hidden.value().dtype())));
    return cast(last_->forward(placed), Dtype::kF32);
  }

 private:
  std::shared_ptr<Sequential> first_;
  std::shared_ptr<Linear> last_;
  Var positions_;
};

// Lengths of tokens [B,n,d] once their covariance over all images is the unit matrix: the same for
// codes and for patches when one is a linear function of the other.
class Whitening {
 public:
  // `directions`: so many of the largest variance; 0: all that vary.
  Whitening(const Tensor& tokens, int64_t directions) {
    const int64_t d = tokens.dim(2), count = tokens.numel() / d;
    const Eigen::Map<const Rows> all(tokens.data<float>(), count, d);
    mean_ = all.colwise().mean();
    const Eigen::MatrixXd centred = (all.rowwise() - mean_).cast<double>();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(centred.transpose() * centred /
                                                                static_cast<double>(count));
    const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
    if (directions == 0) {
      constexpr double kLeast = 1e-6;  // of the largest variance
      directions = (values.array() > kLeast * values[d - 1]).count();
    }
    axes_ = (solver.eigenvectors().rightCols(directions) *
             values.tail(directions).cwiseMax(1e-30).cwiseSqrt().cwiseInverse().asDiagonal())
                .cast<float>();
  }
  int64_t directions() const { return axes_.cols(); }
  // [B,n,d] -> [B,1,n]: the lengths of each image, in ascending order.
  Tensor lengths(const Tensor& tokens) const {
    const int64_t b = tokens.dim(0), n = tokens.dim(1), d = tokens.dim(2);
    const Eigen::Map<const Rows> all(tokens.data<float>(), b * n, d);
    const Eigen::VectorXf norms = ((all.rowwise() - mean_) * axes_).rowwise().norm();
    Tensor out = Tensor::from({norms.data(), static_cast<size_t>(norms.size())}, {b, 1, n});
    for (int64_t i = 0; i < b; ++i)
      std::sort(out.data<float>() + i * n, out.data<float>() + (i + 1) * n);
    return out;
  }

 private:
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::RowVectorXf mean_;
  Eigen::MatrixXf axes_;
};

class Match : public AttackOn<PrivateImagesView> {
 public:
  std::string name() const override { return "match"; }
  std::string title() const override { return "matching with the private images"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return no_patches_reason(setting.image, setting.row, setting.disguise);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const PrivateImagesView& view,
                                     const AttackContext& context) override {
    const Patches patches(view.image, view.disguise);
    if (patches.shuffled && view.disguise.neuracrypt().depth() < 0) {
      return {matched_linear(patches, view)};
    }
    Tensor codes = patches.codes_of(view.private_rows);
    if (patches.shuffled) {
      context.report(0, "finding slots");
      codes = into_slots(codes, find_slots(codes));
    }
    const OwnEncoders own(patches, view.disguise, *view.public_data,
                          context.settings.match().keys(), context.seed);
    std::vector<int64_t> match = match_by_distances(
        image_distances(codes), own.expected(view.private_images, false, context), context);
    if (!patches.shuffled) {
      const Tensor queries = codes.rows(0, view.queries.dim(0));
      return {matched(view, match, [=](const Tensor& gallery) {
        return similarity(queries, patches.of_images(gallery));
      })};
    }
    const Tensor plain = patches.of_images(view.private_images);
    const Tensor in_slots = codes;
    for (int round = 0; round < kMostRefined; ++round) {
      codes = in_positions(in_slots, positions_of(in_slots, match, own, view, context));
      const std::vector<int64_t> next = refined(codes, match, own, view, context);
      if (next == match) break;
      match = next;
    }
    std::shared_ptr<EncoderCopy> copy;
    for (int round = 0; round < std::max(1, context.settings.match().rounds()); ++round) {
      copy = trained(plain, codes, match, view.disguise.neuracrypt(), round, context);
      const std::vector<int64_t> next =
          assign_largest(similarity(codes, encoded(*copy, plain, context)));
      if (next == match) break;
      match = next;
    }
    return results(view, patches, codes, match, copy, context);
  }

 private:
  // Of each slot, by what distances become between images that are matched so far.
  static std::vector<int64_t> positions_of(const Tensor& codes, const std::vector<int64_t>& match,
                                           const OwnEncoders& own, const PrivateImagesView& view,
                                           const AttackContext& context) {
    const int64_t some = std::min(kToPlace, codes.dim(0));
    const Tensor images =
        picked(view.private_images, std::span(match).first(static_cast<size_t>(some)));
    return place_slots(position_distances(codes.rows(0, some)),
                       own.expected(images, true, context));
  }

  // Once the positions are known, the distances of each position, to images that are matched so
  // far, say far more than their sum.
  static std::vector<int64_t> refined(const Tensor& codes, const std::vector<int64_t>& match,
                                      const OwnEncoders& own, const PrivateImagesView& view,
                                      const AttackContext& context) {
    const int64_t anchors = std::min(kAnchors, codes.dim(0));
    const Tensor images =
        picked(view.private_images, std::span(match).first(static_cast<size_t>(anchors)));
    context.report(0, "matching by the distances of every position");
    return assign_largest(similarity(distances_to(codes, codes.rows(0, anchors)),
                                     own.expected_to(view.private_images, images, context)));
  }

  // On the pairs of codes and matched images, by the absolute error.
  static std::shared_ptr<EncoderCopy> trained(const Tensor& plain, const Tensor& codes,
                                              const std::vector<int64_t>& match,
                                              const NeuracryptConfig& form, int round,
                                              const AttackContext& context) {
    Rng rng(context.seed, fmt::format("encoder {}", round));
    auto copy = std::make_shared<EncoderCopy>(plain.dim(1), plain.dim(2), form, rng);
    copy->to(context.device);
    Optimizer optimizer(copy->parameters(), {.kind = OptimSpec::Kind::kAdam});
    Schedule schedule{.kind = Schedule::Kind::kCosine, .peak = kRate};
    schedule.steps = context.settings.match().round_steps();
    const int64_t batch = std::min(kBatch, codes.dim(0));
    for (int64_t step = 0; step < schedule.steps; ++step) {
      std::vector<int64_t> rows, images;
      for (int64_t i = 0; i < batch; ++i) {
        rows.push_back(static_cast<int64_t>(rng.below(static_cast<uint64_t>(codes.dim(0)))));
        images.push_back(match[static_cast<size_t>(rows.back())]);
      }
      const Var x(picked(plain, images).to(context.device));
      const Var loss =
          l1(copy->forward(cast(x, context.dtype)), Var(picked(codes, rows).to(context.device)));
      loss.backward();
      optimizer.step(schedule.at(step));
      if (step % 20 == 0) {
        context.report(20 * batch, fmt::format("encoder {}, step {}", round + 1, step));
      }
    }
    copy->freeze();
    copy->train(false);
    return copy;
  }

  static Tensor encoded(EncoderCopy& copy, const Tensor& patches, const AttackContext& context) {
    constexpr int64_t kAtOnce = 128;
    Tensor out;
    for (int64_t first = 0; first < patches.dim(0); first += kAtOnce) {
      const int64_t count = std::min(kAtOnce, patches.dim(0) - first);
      const Tensor codes = copy.forward(Var(patches.rows(first, count).to(context.device)))
                               .value()
                               .to(Device{})
                               .plain();
      if (!out.defined()) out = Tensor::empty({patches.dim(0), codes.dim(1), codes.dim(2)});
      out.rows(first, count).copy_from(codes);
    }
    return out;
  }

  // Less the squared distance of all of [A,..] and [B,..]: [A,B].
  static Tensor similarity(const Tensor& a, const Tensor& b) {
    Tensor out = squared_distances(a.reshape({a.dim(0), a.numel() / a.dim(0)}),
                                   b.reshape({b.dim(0), b.numel() / b.dim(0)}));
    for (float& v : out.span<float>()) v = -v;
    return out;
  }

  // The private images that the queries were matched with; `compare` tells how alike they are to
  // others.
  static Reconstruction matched(const PrivateImagesView& view, const std::vector<int64_t>& match,
                                std::function<Tensor(const Tensor&)> compare) {
    const auto m = static_cast<size_t>(view.queries.dim(0));
    Reconstruction r;
    r.candidate = "matched";
    r.images = picked(view.private_images, std::span(match).first(m));
    r.self_score = 1;
    r.match = std::move(compare);
    return r;
  }

  static Reconstruction matched_linear(const Patches& patches, const PrivateImagesView& view) {
    const Tensor plain = patches.of_images(view.private_images);
    const Tensor codes = patches.codes_of(view.private_rows);
    const Whitening of_plain(plain, 0), of_codes(codes, of_plain.directions());
    const Tensor seen = of_codes.lengths(codes);
    const Tensor queries = seen.rows(0, view.queries.dim(0));
    return matched(view, assign_largest(similarity(seen, of_plain.lengths(plain))),
                   [=](const Tensor& gallery) {
                     return similarity(queries, of_plain.lengths(patches.of_images(gallery)));
                   });
  }

  // What was matched, and what a decoder makes of the queries that learnt from the other pairs.
  static std::vector<Reconstruction> results(const PrivateImagesView& view, const Patches& patches,
                                             const Tensor& codes, const std::vector<int64_t>& match,
                                             const std::shared_ptr<EncoderCopy>& copy,
                                             const AttackContext& context) {
    const int64_t m = view.queries.dim(0), others = codes.dim(0) - m;
    const Tensor queries = codes.rows(0, m);
    std::vector<Reconstruction> out;
    out.push_back(matched(view, match, [=](const Tensor& gallery) {
      return similarity(queries, encoded(*copy, patches.of_images(gallery), context));
    }));
    if (others == 0) return out;
    const Tensor images =
        picked(view.private_images, std::span(match).subspan(static_cast<size_t>(m)));
    const PatchDecoder decoder(codes.rows(m, others), patches.of_images(images), context);
    Reconstruction r;
    r.candidate = fmt::format("decoded, from {} other pairs", others);
    r.images = patches.to_images(decoder.decode(queries));
    r.self_score = 0;
    out.push_back(std::move(r));
    return out;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_match_attack() { return std::make_unique<Match>(); }

}  // namespace ens
