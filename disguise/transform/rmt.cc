// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/rmt.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "disguise/transform/per_image.h"

namespace ens {
namespace {

// Adds noise of this law and width to the values.
void add_noise(std::span<float> values, SecretRng& rng, double width, NoiseLaw law) {
  for (float& value : values) {
    double noise = 0;
    switch (law) {
      case NoiseLaw::kUniform:
        noise = width * rng.uniform();
        break;
      case NoiseLaw::kCentred:
        noise = width * (rng.uniform() - 0.5);
        break;
      case NoiseLaw::kGaussian:
        noise = width / std::sqrt(12.0) * rng.normal();
        break;
    }
    value += static_cast<float>(noise);
  }
}

// y = x R for so many rows x of n values. N: n, where the compiler knows it, else 0.
template <int64_t N = 0>
void multiply_rows(const float* x, const float* matrix, float* y, int64_t rows, int64_t n) {
  const int64_t size = N > 0 ? N : n;
  for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
    for (int64_t j = 0; j < size; ++j) y[j] = x[0] * matrix[j];
    for (int64_t k = 1; k < size; ++k) {
      for (int64_t j = 0; j < size; ++j) y[j] += x[k] * matrix[k * size + j];
    }
  }
}

// y = R x for x of n rows.
void multiply_columns(const float* x, const float* matrix, float* y, int64_t n, int64_t columns) {
  std::fill(y, y + n * columns, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t j = 0; j < columns; ++j)
        y[i * columns + j] += matrix[i * n + k] * x[k * columns + j];
    }
  }
}

class Rmt : public Transform {
 public:
  Rmt(const ImageShape& image, const RmtParameters& parameters)
      : grid_{image, parameters.block_height, parameters.block_width}, p_(parameters) {
    if (p_.block_height < 1 || p_.block_width < 1 || p_.block_height > image.height ||
        p_.block_width > image.width) {
      usage_fail("a block of " + std::to_string(p_.block_height) + "x" +
                     std::to_string(p_.block_width) + " pixels does not fit into images of " +
                     std::to_string(image.height) + "x" + std::to_string(image.width),
                 "disguise.rmt.block", "choose a smaller block");
    }
    if (!(p_.noise >= 0 && std::isfinite(p_.noise))) {
      usage_fail("the noise's width must be a number of 0 or more", "disguise.rmt.noise");
    }
    const int64_t n = rmt_matrix_size(grid_, p_.side), t = grid_.positions();
    if (p_.matrices.rank() != 3 || (p_.matrices.dim(0) != t && p_.matrices.dim(0) != 1) ||
        !(p_.matrices.rows(0, 1).shape() == Shape{1, n, n}) || p_.matrices.dtype() != Dtype::kF32) {
      fail("the matrices do not fit: float32 [" + std::to_string(t) +
               " or 1, n, n] with n = " + std::to_string(n) + " are needed",
           "rmt");
    }
    if (p_.permutation.empty()) {
      p_.permutation.resize(static_cast<size_t>(t));
      std::iota(p_.permutation.begin(), p_.permutation.end(), 0);
    }
    std::vector<int64_t> sorted = p_.permutation;
    std::ranges::sort(sorted);
    for (int64_t i = 0; i < t; ++i) {
      if (static_cast<int64_t>(sorted.size()) != t || sorted[static_cast<size_t>(i)] != i) {
        fail("the permutation is none of the " + std::to_string(t) + " blocks", "rmt");
      }
    }
  }

  Shape output_shape() const override { return grid_.padded().shape(); }

  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    Tensor blocks = to_blocks(images, grid_);
    Tensor out = Tensor::empty(blocks.shape());
    if (p_.noise > 0 && !p_.noise_after) add_noise_to(blocks, fresh);
    multiply(blocks, out);
    if (p_.noise > 0 && p_.noise_after) add_noise_to(out, fresh);
    return from_blocks(out, grid_);
  }

 private:
  void add_noise_to(Tensor& blocks, FreshRandomness& fresh) const {
    for_each_image(blocks, fresh, [&](std::span<float> values, SecretRng& rng) {
      add_noise(values, rng, p_.noise, p_.noise_law);
    });
  }

  const float* matrix(int64_t position) const {
    const int64_t n = p_.matrices.dim(1);
    return p_.matrices.data<float>() + (p_.matrices.dim(0) == 1 ? 0 : position * n * n);
  }

  void multiply(const Tensor& blocks, Tensor& out) const {
    const int64_t t = grid_.positions(), size = grid_.block_size(), n = p_.matrices.dim(1);
    const float* x = blocks.data<float>();
    float* y = out.data<float>();
    parallel_for(blocks.dim(0), 8, [&](int64_t begin, int64_t end) {
      if (p_.side == RmtSide::kFull) {
        using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
        const Eigen::OuterStride<> stride(t * size);
        for (int64_t i = 0; i < t; ++i) {
          const Eigen::Map<const Rows, 0, Eigen::OuterStride<>> from(x + (begin * t + i) * size,
                                                                     end - begin, n, stride);
          Eigen::Map<Rows, 0, Eigen::OuterStride<>> to(y + (begin * t + target(i)) * size,
                                                       end - begin, n, stride);
          to.noalias() = from * Eigen::Map<const Rows>(matrix(i), n, n);
        }
        return;
      }
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t i = 0; i < t; ++i) {
          const float* from = x + (b * t + i) * size;
          float* to = y + (b * t + target(i)) * size;
          if (p_.side == RmtSide::kRight) {
            const auto multiply = n == 4   ? multiply_rows<4>
                                  : n == 8 ? multiply_rows<8>
                                           : multiply_rows<>;
            multiply(from, matrix(i), to, size / n, n);
          } else {
            for (int64_t c = 0; c < size; c += n * grid_.width)
              multiply_columns(from + c, matrix(i), to + c, n, grid_.width);
          }
        }
      }
    });
  }

  int64_t target(int64_t position) const { return p_.permutation[static_cast<size_t>(position)]; }

  BlockGrid grid_;
  RmtParameters p_;
};

}  // namespace

int64_t rmt_matrix_size(const BlockGrid& grid, RmtSide side) {
  return side == RmtSide::kFull    ? grid.block_size()
         : side == RmtSide::kRight ? grid.width
                                   : grid.height;
}

std::unique_ptr<Transform> rmt_transform(const ImageShape& image, const RmtParameters& parameters) {
  return std::make_unique<Rmt>(image, parameters);
}

}  // namespace ens
