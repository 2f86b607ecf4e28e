// SPDX-License-Identifier: Apache-2.0
// What is the trained model worth to the cloud, which holds it without the key? The methods claim
// to hide the model too. Its accuracy on plain images, on images disguised under a key of the
// cloud's own, and under the key that `moments` recovers; and what the model says a class looks
// like: a disguised image that it takes for the class, found by gradient descent and undone by the
// recovered key (Fredrikson et al., "Model Inversion Attacks", CCS 2015). The reconstruction of a
// query is the picture of the class that the model puts it in.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "attacks/disguise/model.h"
#include "attacks/disguise/moments.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/optim/optim.h"

namespace ens {
namespace {

void clip(Tensor& t, float low, float high) {
  for (float& v : t.span<float>()) v = std::clamp(v, low, high);
}

class ModelUseAttack : public AttackOn<ModelView> {
 public:
  std::string name() const override { return "model-use"; }
  std::string title() const override { return "the model without the key"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return setting.row.rank() == 3 ? "" : "the disguised rows are no pictures";
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig& settings) const override {
    return {.nets = 10 * settings.model_use().steps()};
  }

  std::vector<Reconstruction> run_on(const ModelView& view, const AttackContext& context) override {
    if (!view.model || !view.apply_other_key) fail("the attack needs the trained model", name());
    std::optional<BlockInverse> key;
    const Shape row(view.queries.shape().dims().subspan(1));
    if (no_moments_reason(
            {view.disguise, view.image, row, view.training_rows, view.public_data->count()})
            .empty()) {
      key = estimates_by_moments(view, context)[0].inverse;
    }
    Reconstruction r;
    r.candidate = key ? "class, recovered key" : "class, no key";
    r.model_use = accuracies(view, row, key, context);
    const Tensor classes = class_images(view, row, key, context);
    const std::vector<int32_t> said = argmax_rows(logits_of(*view.model, view.queries, context));
    r.images = Tensor::empty(batched(view.queries.dim(0), view.image));
    for (int64_t i = 0; i < r.images.dim(0); ++i) {
      r.images.rows(i, 1).copy_from(classes.rows(said[static_cast<size_t>(i)], 1));
    }
    return {r};
  }

 private:
  static std::vector<ModelUse> accuracies(const ModelView& view, const Shape& row,
                                          const std::optional<BlockInverse>& key,
                                          const AttackContext& context) {
    constexpr int64_t kMost = 2000;
    const int64_t n = std::min(kMost, view.public_data->count());
    const Tensor images = images_of(*view.public_data, 0, n);
    const Tensor labels = labels_of(*view.public_data, 0, n);
    std::vector<ModelUse> out;
    const auto try_on = [&](const std::string& on, const Tensor& rows) {
      out.push_back({on, accuracy_of(logits_of(*view.model, rows, context), labels,
                                     view.disguise.permute_labels())});
    };
    if (row == view.image) {
      Tensor plain = images.clone();
      for (float& v : plain.span<float>()) v *= 255;
      try_on("plain images", plain);
    }
    try_on("images under a key of the cloud's own", view.apply_other_key(images));
    if (key) {
      const BlockVectors blocks(view.image, view.disguise);
      try_on("images under the recovered key",
             key->disguise(blocks, BlockNoise(view.disguise), images, row));
    }
    return out;
  }

  // For each class of the model an image that it takes for the class, [K,C,H,W]. It stays an image
  // on the way: pixels within their range and alike their neighbours, which takes the key.
  static Tensor class_images(const ModelView& view, const Shape& row,
                             const std::optional<BlockInverse>& key, const AttackContext& context) {
    constexpr float kRate = 4;  // grey levels
    const BlockVectors blocks(view.image, view.disguise);
    const BlockNoise noise(view.disguise);
    const int64_t classes = logits_of(*view.model, view.queries.rows(0, 1), context).dim(1);
    std::vector<int32_t> wanted(static_cast<size_t>(classes));
    for (size_t k = 0; k < wanted.size(); ++k) wanted[k] = static_cast<int32_t>(k);
    const Tensor labels = Tensor::from_labels(wanted).to(context.device);
    const Var rows(mean_row(view, row, classes).to(context.device), true);
    Optimizer optimizer({{"rows", rows}}, {.kind = OptimSpec::Kind::kAdam});
    Tensor images;
    for (int step = 0; step < context.settings.model_use().steps(); ++step) {
      softmax_cross_entropy(view.model->forward(rows), labels).backward();
      optimizer.step(kRate);
      Tensor now = rows.value().to(Device{}).plain();
      if (key) {
        images = key->apply(blocks, noise, now);
        clip(images, 0, 1);
        smooth(images);
        now = key->disguise(blocks, noise, images, row);
      } else {
        now = now.clone();
        clip(now, 0, 255);
      }
      rows.mutable_value() = now.to(context.device);
      context.report(classes, fmt::format("pictures of the classes, step {}", step + 1));
    }
    return key ? images : as_images(rows.value().to(Device{}).plain(), view.image);
  }

  static Tensor mean_row(const ModelView& view, const Shape& row, int64_t count) {
    const int64_t n = std::min<int64_t>(256, view.training_rows), size = row.numel();
    const Tensor some = view.rows(0, n);
    Tensor out = Tensor::zeros(batched(count, row));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t e = 0; e < size; ++e) {
        out.data<float>()[e] += some.data<float>()[i * size + e] / static_cast<float>(n);
      }
    }
    for (int64_t k = 1; k < count; ++k) out.rows(k, 1).copy_from(out.rows(0, 1));
    return out;
  }

  // One step towards the mean of each pixel's four neighbours.
  static void smooth(Tensor& images) {
    constexpr float kShare = 0.05f;
    const int64_t h = images.dim(2), w = images.dim(3);
    const Tensor before = images.clone();
    for (int64_t map = 0; map < images.dim(0) * images.dim(1); ++map) {
      const float* from = before.data<float>() + map * h * w;
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < w; ++x) {
          const auto at = [&](int64_t dy, int64_t dx) {
            return from[std::clamp<int64_t>(y + dy, 0, h - 1) * w +
                        std::clamp<int64_t>(x + dx, 0, w - 1)];
          };
          const float mean = (at(-1, 0) + at(1, 0) + at(0, -1) + at(0, 1)) / 4;
          images.data<float>()[(map * h + y) * w + x] += kShare * (mean - at(0, 0));
        }
      }
    }
  }

  // Rows as they are, brought to the image's size by nearest pixels.
  static Tensor as_images(const Tensor& rows, const Shape& image) {
    Tensor out = Tensor::empty(batched(rows.dim(0), image));
    const int64_t h = rows.dim(2), w = rows.dim(3);
    for (int64_t map = 0; map < rows.dim(0) * image[0]; ++map) {
      for (int64_t y = 0; y < image[1]; ++y) {
        for (int64_t x = 0; x < image[2]; ++x) {
          out.data<float>()[(map * image[1] + y) * image[2] + x] =
              rows.data<float>()[(map * h + y * h / image[1]) * w + x * w / image[2]] / 255;
        }
      }
    }
    return out;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_model_use_attack() {
  return std::make_unique<ModelUseAttack>();
}

}  // namespace ens
