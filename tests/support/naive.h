// SPDX-License-Identifier: Apache-2.0
// Every operation of nn/autograd/ops.h a second time, as the plainest loop that can be written, in
// double precision. Tests compare the library with these, and differentiate these numerically.
//
// Nothing here calls the code under test beyond Shape, Tensor (to copy numbers in and out) and the
// option structs. Shapes are assumed to fit. Single-threaded and slow on purpose.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "nn/core/backend.h"
#include "nn/core/tensor.h"

namespace ens::naive {

// Numbers in row-major (NCHW) order. A default-made Array (no values) stands for "no bias".
struct Array {
  Shape shape;
  std::vector<double> v;

  Array() = default;
  explicit Array(const Shape& s) : shape(s), v(static_cast<size_t>(s.numel()), 0.0) {}
  explicit Array(const Tensor& t);

  bool empty() const { return v.empty(); }
  size_t size() const { return v.size(); }
  double& at(int64_t n, int64_t c, int64_t h, int64_t w);
  double at(int64_t n, int64_t c, int64_t h, int64_t w) const;
  Tensor tensor() const;  // float32, CPU, plain
};

Array conv2d(const Array& x, const Array& w, const Array& bias, const ConvSpec& spec);
Array conv_transpose2d(const Array& x, const Array& w, const Array& bias, const ConvSpec& spec,
                       int output_padding);
Array linear(const Array& x, const Array& w, const Array& bias);
// mean and var may be null; var is the biased variance.
Array batch_norm_train(const Array& x, const Array& gamma, const Array& beta, double eps, bool relu,
                       Array* mean = nullptr, Array* var = nullptr);
Array batch_norm_eval(const Array& x, const Array& gamma, const Array& beta, const Array& mean,
                      const Array& var, double eps, bool relu);
Array channel_affine(const Array& x, const Array& scale, const Array& shift, bool relu);
Array max_pool(const Array& x, const PoolSpec& spec);
Array avg_pool(const Array& x, const PoolSpec& spec);
Array global_avg_pool(const Array& x);

Array map(const Array& x, const std::function<double(double)>& f);
// Broadcasts sizes of 1.
Array zip(const Array& a, const Array& b, const std::function<double(double, double)>& f);

Array reshape(const Array& x, const Shape& shape);
Array slice(const Array& x, int axis, int64_t start, int64_t length);
Array concat(const std::vector<Array>& parts, int axis);
Array sum_to(const Array& x, const Shape& shape);
Array mean_to(const Array& x, const Shape& shape);
Array sum(const Array& x);
Array mean(const Array& x);
Array matmul(const Array& a, const Array& b, bool transpose_a, bool transpose_b);  // batched
Array permute(const Array& x, const std::vector<int>& order);
// lengths: of each batch entry, or empty.
Array softmax(const Array& x, const std::vector<int32_t>& lengths, bool causal);
Array layer_norm(const Array& x, const Array& gamma, const Array& beta, double eps);
Array attention(const Array& q, const Array& k, const Array& v, const std::vector<int32_t>& lengths,
                bool causal);

Array gather(const Array& table, const std::vector<int32_t>& ids);  // [n, D]
Array log_softmax(const Array& x);                                  // [B, K]
Array channel_gram(const Array& x);

Array cosine_similarity(const Array& a, const Array& b);
Array softmax_cross_entropy(const Array& logits, const std::vector<int32_t>& labels);
// The mean over the rows of -sum_k target_k log p_k.
Array soft_cross_entropy(const Array& logits, const Array& targets);
Array mse(const Array& a, const Array& b);
Array l1(const Array& a, const Array& b);
Array ssim(const Array& a, const Array& b);
Array total_variation(const Array& x);

}  // namespace ens::naive
