// SPDX-License-Identifier: Apache-2.0
// The methods of disguised training as their papers write them, element by element: what the
// attacks are tested against, without the code that owners use.
#pragma once

#include <openssl/evp.h>

#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "attacks/disguise/views.h"
#include "nn/autograd/ops.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"
#include "nn/modules/layers.h"
#include "nn/optim/optim.h"
#include "proto/config.h"

namespace ens::test {

// A network of scaled inputs.
class Scaled : public Module {
 public:
  Scaled(std::shared_ptr<Module> net, float scale)
      : net_(add("net", std::move(net))), scale_(scale) {}
  Var forward(const Var& x) override { return net_->forward(affine(x, scale_, 0)); }

 private:
  std::shared_ptr<Module> net_;
  float scale_;
};

// Images of waves: smooth, and no two alike.
inline Dataset waves(int64_t count, int channels, int size, uint64_t seed) {
  Dataset data;
  data.name = "waves";
  data.channels = channels, data.height = data.width = size;
  data.class_names = {"a", "b"};
  Rng rng(seed);
  for (int64_t i = 0; i < count; ++i) {
    double a[4], b[4], shift[4], height[4];
    for (int w = 0; w < 4; ++w) {
      a[w] = rng.normal() * 0.25, b[w] = rng.normal() * 0.25, shift[w] = 6.3 * rng.uniform();
      height[w] = 25 * rng.normal();
    }
    for (int c = 0; c < channels; ++c) {
      const double tint = 10 * rng.normal();
      for (int y = 0; y < size; ++y) {
        for (int x = 0; x < size; ++x) {
          double v = 120 + tint + 2 * x - y;
          for (int w = 0; w < 4; ++w) v += height[w] * std::sin(a[w] * y + b[w] * x + shift[w]);
          data.pixels.push_back(static_cast<uint8_t>(std::clamp(v + 3 * rng.normal(), 0.0, 255.0)));
        }
      }
    }
    data.labels.push_back(static_cast<int32_t>(i % 2));
  }
  return data;
}

inline Eigen::MatrixXd random_orthogonal(int64_t n, Rng& rng) {
  Eigen::MatrixXd gaussian(n, n);
  for (double& v : gaussian.reshaped()) v = rng.normal();
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(gaussian);
  Eigen::MatrixXd q = qr.householderQ();
  for (int64_t i = 0; i < n; ++i) {
    if (qr.matrixQR()(i, i) < 0) q.col(i) = -q.col(i);
  }
  return q;
}

// Y_pi(i) = (X_i + D) R_i, block by block, for images whose sides are whole blocks. `side`: 'r',
// 'l' or 'f'.
struct NaiveRmt {
  int r = 4, s = 4;
  char side = 'r';
  std::vector<Eigen::MatrixXd> matrices;  // of each position, or one
  std::vector<int> target;                // pi
  double noise = 0;                       // U[0, N)
  bool noise_after = false;

  NaiveRmt(const Dataset& data, int block, char side_, bool shared, bool permuted, bool gaussian,
           double noise_, uint64_t seed)
      : r(block), s(block), side(side_), noise(noise_) {
    Rng rng(seed);
    const int t = data.height / r * (data.width / s);
    const int64_t n = side == 'f' ? int64_t{data.channels} * r * s : side == 'l' ? r : s;
    for (int i = 0; i < (shared ? 1 : t); ++i) {
      Eigen::MatrixXd m = random_orthogonal(n, rng);
      for (int64_t k = 0; k < n && gaussian; ++k) m.col(k) *= 0.5 + 1.5 * rng.uniform();
      if (gaussian) m = random_orthogonal(n, rng) * m;
      matrices.push_back(m);
    }
    target.resize(static_cast<size_t>(t));
    std::iota(target.begin(), target.end(), 0);
    if (permuted) {
      const auto order = rng.permutation(t);
      std::copy(order.begin(), order.end(), target.begin());
    }
  }

  Tensor operator()(const Tensor& images, uint64_t seed) const {
    Rng rng(seed);
    const int64_t c = images.dim(1), h = images.dim(2), w = images.dim(3), across = w / s;
    Tensor out = Tensor::empty(images.shape());
    for (int64_t b = 0; b < images.dim(0); ++b) {
      for (int64_t i = 0; i < h / r * across; ++i) {
        const auto at = [&](const Tensor& t, int64_t position, int64_t channel, int64_t y,
                            int64_t x) -> float& {
          return t.data<float>()[((b * c + channel) * h + position / across * r + y) * w +
                                 position % across * s + x];
        };
        Eigen::MatrixXd x(c * r, s), y;
        for (int64_t row = 0; row < c * r; ++row) {
          for (int64_t column = 0; column < s; ++column) {
            x(row, column) = 255.0 * at(images, i, row / r, row % r, column) +
                             (noise_after ? 0 : noise * rng.uniform());
          }
        }
        const Eigen::MatrixXd& m = matrices[matrices.size() == 1 ? 0 : static_cast<size_t>(i)];
        if (side == 'r') y = x * m;
        if (side == 'l') {
          y = x;
          for (int64_t channel = 0; channel < c; ++channel) {
            y.middleRows(channel * r, r) = m * x.middleRows(channel * r, r);
          }
        }
        if (side == 'f') {
          const Eigen::RowVectorXd flat = x.reshaped<Eigen::RowMajor>().transpose() * m;
          y = flat.reshaped<Eigen::RowMajor>(c * r, s);
        }
        for (int64_t row = 0; row < c * r; ++row) {
          for (int64_t column = 0; column < s; ++column) {
            at(out, target[static_cast<size_t>(i)], row / r, row % r, column) =
                static_cast<float>(y(row, column) + (noise_after ? noise * rng.uniform() : 0));
          }
        }
      }
    }
    return out;
  }
};

// AES-128-ECB of units of u_h x u_w pixels, each repeated to 4 x 4 bytes. One key for every
// position, or for each.
struct NaiveAes {
  int unit_height = 4, unit_width = 4;
  bool key_by_position = false;

  Tensor operator()(const Tensor& images) const {
    const int64_t h = images.dim(2), w = images.dim(3), rows = h / unit_height,
                  columns = w / unit_width;
    Tensor out = Tensor::empty({images.dim(0), images.dim(1), rows * 4, columns * 4});
    for (int64_t map = 0; map < images.dim(0) * images.dim(1); ++map) {
      for (int64_t i = 0; i < rows * columns; ++i) {
        uint8_t plain[16], cipher[32], key[16] = {7, 1, 9};
        if (key_by_position)
          key[5] = static_cast<uint8_t>(i), key[6] = static_cast<uint8_t>(i >> 8);
        for (int64_t p = 0; p < 16; ++p) {
          const int64_t y = i / columns * unit_height + p / 4 * unit_height / 4;
          const int64_t x = i % columns * unit_width + p % 4 * unit_width / 4;
          plain[p] =
              static_cast<uint8_t>(std::lround(255 * images.data<float>()[(map * h + y) * w + x]));
        }
        EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
        int length = 0;
        EVP_EncryptInit_ex(context, EVP_aes_128_ecb(), nullptr, key, nullptr);
        EVP_EncryptUpdate(context, cipher, &length, plain, 16);
        EVP_CIPHER_CTX_free(context);
        for (int64_t p = 0; p < 16; ++p) {
          out.data<float>()[(map * rows * 4 + i / columns * 4 + p / 4) * columns * 4 +
                            i % columns * 4 + p % 4] = cipher[p];
        }
      }
    }
    return out;
  }
};

// NeuraCrypt with patches of 4x4, by matrices of Eigen: batch norms take the statistics of
// `samples`.
class NaiveNeuracrypt {
 public:
  NaiveNeuracrypt(const Dataset& samples, int64_t width, int depth, uint64_t seed)
      : linear_(depth < 0), rng_(seed) {
    const int64_t q = int64_t{samples.channels} * 16,
                  n = int64_t{samples.height} / 4 * (samples.width / 4);
    layers_.push_back(random(q, width));
    for (int i = 0; i < depth; ++i) layers_.push_back(random(width, width));
    if (linear_) return;
    layers_.push_back(random(width, width));
    positions_ = Eigen::MatrixXd(n, width);
    for (double& v : positions_.reshaped()) v = rng_.normal();
    measuring_ = true;
    (*this)(images_of(samples, 0, std::min<int64_t>(samples.count(), 200)), 1);
    measuring_ = false;
  }

  // -> [B,n,d], the codes of each image in random order.
  Tensor operator()(const Tensor& images, uint64_t seed) {
    Rng order(seed);
    const int64_t b = images.dim(0), c = images.dim(1), h = images.dim(2), w = images.dim(3);
    const int64_t n = h / 4 * (w / 4);
    Eigen::MatrixXd x(b * n, c * 16);
    for (int64_t i = 0; i < b * n; ++i) {
      for (int64_t k = 0; k < c * 16; ++k) {
        const int64_t y = i % n / (w / 4) * 4 + k % 16 / 4, column = i % n % (w / 4) * 4 + k % 4;
        x(i, k) = images.data<float>()[((i / n * c + k / 16) * h + y) * w + column];
      }
    }
    x = through(layers_[0], x);
    if (!linear_) {
      x = x.cwiseMax(0);
      for (size_t i = 1; i + 1 < layers_.size(); ++i) x = norm(i, through(layers_[i], x));
      for (int64_t i = 0; i < x.rows(); ++i) x.row(i) += positions_.row(i % n);
      x = through(layers_.back(), x.cwiseMax(0));
    }
    Tensor out = Tensor::empty({b, n, x.cols()});
    for (int64_t image = 0; image < b; ++image) {
      const std::vector<int64_t> places = order.permutation(n);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < x.cols(); ++k) {
          out.data<float>()[(image * n + places[static_cast<size_t>(i)]) * x.cols() + k] =
              static_cast<float>(x(image * n + i, k));
        }
      }
    }
    return out;
  }

 private:
  struct Layer {
    Eigen::MatrixXd weight;  // [in, out]
    Eigen::RowVectorXd bias, mean, deviation;
  };
  Layer random(int64_t in, int64_t out) {
    Layer layer{Eigen::MatrixXd(in, out), Eigen::RowVectorXd(out), {}, {}};
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    for (double& v : layer.weight.reshaped()) v = bound * (2 * rng_.uniform() - 1);
    for (double& v : layer.bias.reshaped()) v = bound * (2 * rng_.uniform() - 1);
    return layer;
  }
  static Eigen::MatrixXd through(const Layer& layer, const Eigen::MatrixXd& x) {
    return (x * layer.weight).rowwise() + layer.bias;
  }
  Eigen::MatrixXd norm(size_t i, const Eigen::MatrixXd& x) {
    Layer& layer = layers_[i];
    if (measuring_) {
      layer.mean = x.colwise().mean();
      layer.deviation =
          ((x.rowwise() - layer.mean).colwise().squaredNorm() / static_cast<double>(x.rows()))
              .array()
              .sqrt();
    }
    return ((x.rowwise() - layer.mean).array().rowwise() /
            (layer.deviation.array().square() + 1e-5).sqrt())
        .cwiseMax(0);
  }

  bool linear_, measuring_ = false;
  Rng rng_;
  std::vector<Layer> layers_;
  Eigen::MatrixXd positions_;
};

// A victim that disguises with `apply`: its training images are `training`, its queries the first
// images of `test`.
inline DisguiseVictim victim_of(const DisguiseConfig& disguise, const Dataset& training,
                                const Dataset& public_data, const Dataset& test, int64_t queries,
                                const std::function<Tensor(const Tensor&)>& apply) {
  DisguiseVictim victim;
  victim.disguise = disguise;
  victim.image = {test.channels, test.height, test.width};
  victim.training_rows = training.count();
  const Tensor rows = apply(images_of(training, 0, training.count()));
  victim.rows = [rows](int64_t first, int64_t count) { return rows.rows(first, count); };
  victim.queries = apply(images_of(test, 0, queries));
  victim.public_data = &public_data;
  victim.apply = apply;
  return victim;
}

// A linear classifier of rows, trained for so many steps of Adam on all of them, and frozen.
inline std::shared_ptr<Module> linear_model(const Tensor& rows, const std::vector<int32_t>& labels,
                                            int classes, int steps) {
  Rng rng(1);
  auto model = std::make_shared<Sequential>();
  model->push(std::make_shared<Flatten>());
  model->push(std::make_shared<Linear>(rows.numel() / rows.dim(0), classes, true, rng));
  Optimizer adam(model->parameters(), {.kind = OptimSpec::Kind::kAdam});
  for (int step = 0; step < steps; ++step) {
    softmax_cross_entropy(model->forward(affine(Var(rows), 0.01f, 0)), Tensor::from_labels(labels))
        .backward();
    adam.step(0.01f);
  }
  model->freeze();
  return std::make_shared<Scaled>(model, 0.01f);
}

// Settings of attacks that train networks, for the tests' small images.
inline AttackContext small_context() {
  RunConfig config;
  parse_config(
      "attack { decoder { channels: 8 blocks: 1 epochs: 2 } alignment { steps: 30 batch: 32 } "
      "model_use { steps: 30 } denoise { channels: 16 blocks: 2 } }",
      "test", config);
  complete(config);
  AttackContext context;
  context.settings = config.attack();
  return context;
}

inline DisguiseConfig settings(const std::string& text) {
  RunConfig config;
  parse_config(text, "test", config);
  complete(config);
  return config.disguise();
}

}  // namespace ens::test
