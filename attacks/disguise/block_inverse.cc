// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/block_inverse.h"

#include <Eigen/Core>
#include <Eigen/QR>
#include <numeric>

namespace ens {

Tensor BlockInverse::apply(const BlockVectors& blocks, const BlockNoise& noise,
                           const Tensor& rows) const {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Tensor from = in_order(blocks.split(rows), place);
  Tensor to = Tensor::empty(from.shape());
  const int64_t t = from.dim(0), d = from.dim(3), samples = from.numel() / (t * d);
  for (int64_t i = 0; i < t; ++i) {
    const int64_t which = matrices.dim(0) == 1 ? 0 : i;
    const Eigen::Map<const Matrix> a(matrices.data<float>() + which * d * d, d, d);
    const Eigen::Map<const Matrix> y(from.data<float>() + i * samples * d, samples, d);
    Eigen::Map<Matrix> x(to.data<float>() + i * samples * d, samples, d);
    x.noalias() = (y.array() - static_cast<float>(noise.mean_after)).matrix() * a;
    x.array() -= static_cast<float>(noise.mean_before);
  }
  return blocks.join(to, 1 / 255.0f);
}

Tensor BlockInverse::disguise(const BlockVectors& blocks, const BlockNoise& noise,
                              const Tensor& images, const Shape& row) const {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Tensor from = blocks.split(images, 255);
  Tensor to = Tensor::empty(from.shape());
  const int64_t t = from.dim(0), d = from.dim(3), samples = from.numel() / (t * d);
  for (int64_t i = 0; i < t; ++i) {
    const int64_t which = matrices.dim(0) == 1 ? 0 : i;
    const Eigen::Map<const Matrix> a(matrices.data<float>() + which * d * d, d, d);
    const Eigen::Map<const Matrix> x(from.data<float>() + i * samples * d, samples, d);
    Eigen::Map<Matrix> y(to.data<float>() + place[static_cast<size_t>(i)] * samples * d, samples,
                         d);
    const Eigen::MatrixXd r = a.cast<double>().completeOrthogonalDecomposition().pseudoInverse();
    y.noalias() = (x.array() + static_cast<float>(noise.mean_before)).matrix() * r.cast<float>();
    y.array() += static_cast<float>(noise.mean_after);
  }
  BlockVectors whole = blocks;  // with what pads an image
  whole.height = row[1], whole.width = row[2];
  return whole.join(to);
}

Tensor in_order(const Tensor& blocks, const std::vector<int64_t>& place) {
  Tensor out = Tensor::empty(blocks.shape());
  for (int64_t i = 0; i < blocks.dim(0); ++i) {
    out.rows(i, 1).copy_from(blocks.rows(place[static_cast<size_t>(i)], 1));
  }
  return out;
}

std::vector<int64_t> as_they_are(int64_t positions) {
  std::vector<int64_t> place(static_cast<size_t>(positions));
  std::iota(place.begin(), place.end(), 0);
  return place;
}

std::string no_blocks_reason(const Shape& image, const Shape& row, const DisguiseConfig& disguise) {
  if (disguise.method() == "aes") return "ciphertext of whole blocks is no linear function of them";
  return row == BlockVectors(image, disguise).padded() || row == image
             ? ""
             : "a disguised image " + row.str() + " does not consist of the image's blocks";
}

}  // namespace ens
