// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/reference_classifier.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

ModelSpec spec_for(const Dataset& data) {
  if (data.width != data.height) {
    fail("images of " + std::to_string(data.width) + "x" + std::to_string(data.height) +
             " are not square",
         data.name, "set data.image_size");
  }
  ModelSpec spec;
  spec.width = 16;
  spec.classes = static_cast<int>(data.class_names.size());
  spec.channels = data.channels;
  spec.image_size = data.width;
  spec.mean = data.mean;
  spec.stddev = data.stddev;
  return spec;
}

// Rows of unit length, after the column means `centre` are taken off.
void normalise(Tensor& rows, std::span<const double> centre) {
  const int64_t d = rows.dim(1);
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    float* row = rows.data<float>() + i * d;
    double power = 0;
    for (int64_t k = 0; k < d; ++k) {
      row[k] -= static_cast<float>(centre[static_cast<size_t>(k)]);
      power += double{row[k]} * row[k];
    }
    const float scale = power > 0 ? static_cast<float>(1 / std::sqrt(power)) : 0.0f;
    for (int64_t k = 0; k < d; ++k) row[k] *= scale;
  }
}

}  // namespace

ReferenceClassifier::ReferenceClassifier(const Dataset& data, int64_t images, Device device,
                                         Dtype dtype, uint64_t seed,
                                         const std::function<void(int64_t)>& on_step)
    : device_(device), dtype_(dtype) {
  const ModelSpec spec = spec_for(data);
  Rng rng(seed, "reference classifier");
  const int cells = static_cast<int>(cell_names(spec).size());
  body_ = build_cells(spec, 0, cells - 1, rng);
  last_ = build_cells(spec, cells - 1, cells, rng);
  Sequential net;
  net.push(body_);
  net.push(last_);
  net.to(device);

  const Dataset part = data.draw(images, rng);
  OptimSpec sgd;
  sgd.weight_decay = 5e-4f;
  Optimizer optimizer(net.parameters(), sgd);
  LoaderOptions loading;
  loading.batch = std::min<int64_t>(64, part.count());
  loading.crop_padding = spec.image_size / 8;
  loading.flip = true;
  loading.seed = rng.next();
  loading.device = device;
  Loader loader(part, loading);
  FitOptions fitting;
  fitting.label = "the reference classifier";
  fitting.epochs = std::max<int64_t>(1, images / part.count());
  fitting.lr = 0.1f;
  fitting.capture = true;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Var scores = net.forward(cast(Var(b.images.to(device_)), dtype_));
        return softmax_cross_entropy(scores, b.labels.to(device_));
      },
      [&](int64_t n, double) {
        if (on_step) on_step(n);
      },
      nullptr);
  net.freeze();
}

Tensor ReferenceClassifier::embed(const Tensor& images) const {
  constexpr int64_t kBatch = 128;
  NoGrad no_grad;
  std::vector<Var> parts;
  for (int64_t first = 0; first < images.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, images.dim(0) - first);
    const Var x(images.rows(first, n).to(device_));
    parts.push_back(cast(body_->forward(cast(x, dtype_)), Dtype::kF32));
  }
  return concat(parts, 0).value().to(Device{}).plain();
}

std::vector<double> ReferenceClassifier::recognition_of(const Tensor& images,
                                                        std::span<const int32_t> labels) const {
  if (images.dim(0) != std::ssize(labels)) {
    fail(std::to_string(images.dim(0)) + " images, " + std::to_string(labels.size()) + " labels",
         "the reference classifier");
  }
  NoGrad no_grad;
  const Var scores =
      cast(last_->forward(cast(Var(embed(images).to(device_)), dtype_)), Dtype::kF32);
  const std::vector<float> values = scores.value().to_vector();
  const size_t classes = values.size() / labels.size();
  std::vector<double> right(labels.size());
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto row = values.begin() + static_cast<int64_t>(i * classes);
    right[i] = std::max_element(row, row + static_cast<int64_t>(classes)) - row == labels[i];
  }
  return right;
}

Tensor ReferenceClassifier::similarity(const Tensor& images, const Tensor& gallery) const {
  Tensor targets = embed(gallery), probes = embed(images);
  const int64_t m = probes.dim(0), g = targets.dim(0), d = targets.dim(1);
  std::vector<double> centre(static_cast<size_t>(d));
  for (int64_t i = 0; i < g * d; ++i) {
    centre[static_cast<size_t>(i % d)] += targets.data<float>()[i] / static_cast<double>(g);
  }
  normalise(targets, centre);
  normalise(probes, centre);
  Tensor out = Tensor::empty({m, g});
  for (int64_t i = 0; i < m; ++i) {
    const float* probe = probes.data<float>() + i * d;
    for (int64_t j = 0; j < g; ++j) {
      out.data<float>()[i * g + j] = static_cast<float>(
          std::inner_product(probe, probe + d, targets.data<float>() + j * d, 0.0));
    }
  }
  return out;
}

std::vector<double> ReferenceClassifier::reidentification_of(const Tensor& originals,
                                                             const Tensor& reconstructions) const {
  if (!(originals.shape() == reconstructions.shape())) {
    fail("originals are " + originals.shape().str() + ", reconstructions " +
             reconstructions.shape().str(),
         "the reference classifier");
  }
  const Tensor cosines = similarity(reconstructions, originals);
  const int64_t m = originals.dim(0);
  std::vector<double> found(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) {
    const float* row = cosines.data<float>() + i * m;
    bool nearest = true;
    for (int64_t j = 0; j < m && nearest; ++j) nearest = j == i || row[j] < row[i];
    found[static_cast<size_t>(i)] = nearest;
  }
  return found;
}

}  // namespace ens
