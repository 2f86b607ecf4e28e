// SPDX-License-Identifier: Apache-2.0
// K inputs and T Gaussian noises, mixed by a random orthogonal matrix over float32: DarKnight as
// first published (2006.01300). For every virtual batch and layer a new matrix A of (K + T) x (K +
// T) is drawn: shares = A [x; r], and y = (A^T outputs)_1..K, rounded to integers. Nothing is
// proven of it: one share is a mixture that noise covers, and all shares together are separated
// without the matrix (attacks/shares/separation.h).
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/secret_rng.h"
#include "offload/core/nonces.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"

namespace ens {
namespace {

// Rows of a uniformly random orthogonal matrix: Gram-Schmidt of Gaussian rows, twice for precision.
std::vector<std::vector<double>> orthogonal(SecretRng& rng, size_t n) {
  std::vector<std::vector<double>> rows(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (double& v : rows[i]) v = rng.normal();
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t j = 0; j < i; ++j) {
        double dot = 0;
        for (size_t c = 0; c < n; ++c) dot += rows[i][c] * rows[j][c];
        for (size_t c = 0; c < n; ++c) rows[i][c] -= dot * rows[j][c];
      }
      double square = 0;
      for (const double v : rows[i]) square += v * v;
      for (double& v : rows[i]) v /= std::sqrt(square);
    }
  }
  return rows;
}

class RealEncoding : public Encoding {
 public:
  // scale: of the integers x.
  RealEncoding(const SchemeOptions& options, const Tensor& x, float scale, SecureStream& secrets)
      : inputs_(options.virtual_batch),
        one_(Shape(x.shape().dims().subspan(1))),
        images_(x.dim(0)),
        groups_((images_ + inputs_ - 1) / inputs_) {
    const auto rows = static_cast<size_t>(inputs_ + options.noises);
    const auto size = static_cast<size_t>(one_.numel());
    const Tensor values = x.to(Dtype::kF32);
    shares_.assign(rows, Elements(static_cast<size_t>(groups_) * size));
    std::vector<std::vector<double>> mixed(rows, std::vector<double>(size));
    std::vector<double> row(size);
    for (int64_t g = 0; g < groups_; ++g) {
      const Seed seed = secrets.next();
      use_nonce(seed);
      SecretRng rng(seed);
      matrices_.push_back(orthogonal(rng, rows));
      for (auto& m : mixed) std::ranges::fill(m, 0.0);
      for (size_t i = 0; i < rows; ++i) {
        // Image i is input i / G of group i % G, as everywhere; the last rows may lack images.
        const int64_t image = static_cast<int64_t>(i) * groups_ + g;
        if (i >= static_cast<size_t>(inputs_)) {
          for (double& v : row)
            v = (options.noise_mean + options.noise_stddev * rng.normal()) / double{scale};
        } else if (image < images_) {
          std::ranges::copy(values.span<float>().subspan(static_cast<size_t>(image) * size, size),
                            row.begin());
        } else {
          std::ranges::fill(row, 0.0);
        }
        for (size_t j = 0; j < rows; ++j) {
          const double a = matrices_.back()[j][i];
          for (size_t e = 0; e < size; ++e) mixed[j][e] += a * row[e];
        }
      }
      for (size_t j = 0; j < rows; ++j) {
        uint32_t* to = shares_[j].data() + static_cast<size_t>(g) * size;
        for (size_t e = 0; e < size; ++e)
          to[e] = std::bit_cast<uint32_t>(static_cast<float>(mixed[j][e]));
      }
    }
  }

  int64_t groups() const override { return groups_; }
  Share share(int index) override {
    Tensor frame = Tensor::empty(batched(1, batched(groups_, one_)));
    float* to = frame.data<float>();
    for (const uint32_t bits : elements(index)) *to++ = std::bit_cast<float>(bits);
    return {frame, std::nullopt};
  }
  std::span<const uint32_t> elements(int index) override {
    return shares_[static_cast<size_t>(index)];
  }

  bool read(const Tensor& frame, Elements& elements) const override {
    bool finite = true;
    elements.clear();
    for (const float v : frame.span<float>()) {
      elements.push_back(std::bit_cast<uint32_t>(v));
      finite &= std::isfinite(v);
    }
    return finite;
  }

  Tensor decode(size_t, std::span<const int> indices, std::span<const Elements> outputs,
                const Shape& output) const override {
    Tensor y = Tensor::empty(batched(images_, output), Dtype::kI32);
    const auto size = static_cast<size_t>(output.numel());
    for (int64_t image = 0; image < images_; ++image) {
      const auto k = static_cast<size_t>(image / groups_), g = static_cast<size_t>(image % groups_);
      int32_t* to = y.data<int32_t>() + static_cast<size_t>(image) * size;
      for (size_t e = 0; e < size; ++e) {
        double sum = 0;
        for (size_t j = 0; j < indices.size(); ++j) {
          sum += matrices_[g][static_cast<size_t>(indices[j])][k] *
                 std::bit_cast<float>(outputs[j][g * size + e]);
        }
        to[e] = static_cast<int32_t>(std::clamp(std::nearbyint(sum), -0x1p30, 0x1p30));
      }
    }
    return y;
  }

 private:
  const int inputs_;
  const Shape one_;
  const int64_t images_, groups_;
  std::vector<std::vector<std::vector<double>>> matrices_;  // of each group
  std::vector<Elements> shares_;                            // [G, ...] each
};

class DarKnightReal : public Scheme {
 public:
  explicit DarKnightReal(const SchemeOptions& options) : options_(options) {
    if (options.noises < 1) {
      usage_fail("darknight_real without a noise hides nothing", "offload.noises", "use 1 or more");
    }
  }

  Claims claims() const override {
    return {0,
            "linear mixtures of the inputs: workers who pool all shares separate them (share-ica)"};
  }
  ShareNumbers numbers() const override { return ShareNumbers::kReals; }
  const Field& field() const override { return options_.field; }
  int planes() const override { return 1; }
  int output_bytes() const override { return 4; }
  int inputs() const override { return options_.virtual_batch; }
  int shares() const override { return needed(); }
  int needed() const override { return options_.virtual_batch + options_.noises; }
  int seeds() const override { return 0; }
  void add_group(std::vector<Int8Layer>, const Shape&, float input_scale) override {
    scales_.push_back(input_scale);
  }
  std::unique_ptr<Encoding> encode(size_t group, const Tensor& x) override {
    return std::make_unique<RealEncoding>(options_, x, scales_.at(group), secrets_);
  }

 private:
  const SchemeOptions options_;
  std::vector<float> scales_;  // of each group
  SecureStream secrets_;
};

}  // namespace

std::unique_ptr<Scheme> make_darknight_real(const SchemeOptions& options) {
  return std::make_unique<DarKnightReal>(options);
}

}  // namespace ens
