// SPDX-License-Identifier: Apache-2.0
// The differentiable operations. Each checks its arguments (Error with the operation's name and the
// shapes), computes its value through the device's Backend, and carries its own gradient with
// respect to every Var argument. Written once for all devices.
//
// Activations may be float32 or bfloat16; parameters stay float32 (see nn/core/backend.h). Losses
// and reductions are float32. Shapes are written [B,C,H,W] for batch, channels, height, width.
#pragma once

#include <span>
#include <vector>

#include "nn/autograd/var.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"

namespace ens {

// ---- layers
// x [B,C,H,W], w [O,C/groups,kh,kw], bias [O] or an undefined Var -> [B,O,H',W'].
Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvSpec& spec);
// The transpose of conv2d: x [B,C,H,W], w [C,O/groups,kh,kw] -> [B,O,H',W'] with
// H' = (H-1)*stride - 2*padding + dilation*(kh-1) + output_padding + 1, as PyTorch's;
// output_padding < stride.
Var conv_transpose2d(const Var& x, const Var& w, const Var& bias, const ConvSpec& spec,
                     int output_padding = 0);
Var linear(const Var& x, const Var& w, const Var& bias);  // x [..,I], w [O,I], bias [O] -> [..,O]
// Batch statistics over (B,H,W); residual, of x's shape, may be undefined.
Var batch_norm_train(const Var& x, const Var& gamma, const Var& beta, const Var& residual,
                     const BatchNormSpec& spec);
// Fixed statistics. Differentiable in x, gamma and beta.
Var batch_norm_eval(const Var& x, const Var& gamma, const Var& beta, const Tensor& mean,
                    const Tensor& var, float eps, bool relu);
// x * scale[c] + shift[c] with constants.
Var channel_affine(const Var& x, const Tensor& scale, const Tensor& shift, bool relu = false);
Var max_pool(const Var& x, const PoolSpec& spec);
Var avg_pool(const Var& x, const PoolSpec& spec);
Var global_avg_pool(const Var& x);  // [B,C,H,W] -> [B,C]
// Zeroes each element with probability p and scales the rest by 1/(1-p). 0 <= p < 1.
Var dropout(const Var& x, float p, Rng& rng);

// ---- sequences
// Over the last axis of [B, .., Q, K]; a row without columns to count is all 0.
Var softmax(const Var& x, const SoftmaxMask& mask = {});
// gamma * (x - mean) / sqrt(var + eps) + beta over the last axis; x [.., D], gamma and beta [D].
Var layer_norm(const Var& x, const Var& gamma, const Var& beta, float eps = 1e-5f);
// softmax(q k^T / sqrt(D)) v for each head: q [B,H,Q,D], k and v [B,H,K,D] -> [B,H,Q,D] (Vaswani et
// al., 1706.03762, eq. 1). With p > 0 dropout of the weights.
Var attention(const Var& q, const Var& k, const Var& v, const SoftmaxMask& mask = {}, float p = 0,
              Rng* rng = nullptr);
// The rows of `table` [V,D] that ids [..] int32 name -> [.., D]: of an embedding, or of
// activations. The row `none` gets no gradient (a padding symbol's). Error for an id that is no
// row; on a GPU, where nobody waits to see it, it gives NaN.
Var gather(const Var& table, const Tensor& ids, int32_t none = -1);
// x [B,L,D] + the first L rows of `positions` [at least L, D].
Var add_position(const Var& x, const Var& positions);
Var log_softmax(const Var& x);  // over the last axis, float32

// ---- elementwise
Var affine(const Var& x, float a, float b);  // a*x + b
Var relu(const Var& x);
Var leaky_relu(const Var& x, float slope);
Var sigmoid(const Var& x);
Var tanh(const Var& x);
Var exp(const Var& x);
Var log(const Var& x);
Var sqrt(const Var& x);
Var square(const Var& x);
Var abs(const Var& x);
Var gelu(const Var& x);  // x * Phi(x), with the error function (Hendrycks and Gimpel, 1606.08415)
// Equal ranks; a size of 1 is broadcast against the other's.
Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var div(const Var& a, const Var& b);
Var add_relu(const Var& a, const Var& b);  // relu(a + b), same shapes

// ---- shape
Var reshape(const Var& x, const Shape& shape);
Var flatten(const Var& x);  // [B, ...] -> [B, rest]
Var slice(const Var& x, int axis, int64_t start, int64_t length);
Var concat(std::span<const Var> parts, int axis);
Var cast(const Var& x, Dtype dtype);
// Axis i of the result is axis order[i] of x.
Var permute(const Var& x, std::vector<int> order);

// ---- reductions and algebra (results float32)
Var sum(const Var& x);                         // everything -> scalar [1]
Var mean(const Var& x);                        // everything -> scalar [1]
Var sum_to(const Var& x, const Shape& shape);  // over axes where shape has 1; equal ranks
Var mean_to(const Var& x, const Shape& shape);
// [.., M, K] and [.., K, N], each of which may be given transposed -> [.., M, N]. The axes before
// the last two are equal in both.
Var matmul(const Var& a, const Var& b, bool transpose_a = false, bool transpose_b = false);
// x [B,C,H,W] -> [C,C]: sums over B, H and W of the products of two channels.
Var channel_gram(const Var& x);
Var maximum(std::span<const Var> scalars);  // the largest of several [1]; gradient to that one

// ---- losses
// Cosine similarity of the flattened rows of a and b: [B, ...] -> [B]. A zero row counts as 0.
Var cosine_similarity(const Var& a, const Var& b);
// The mean over the rows of [B,K] that are not ignored, [1]. targets: class indices [B] int32, or
// distributions [B,K] float32 (soft labels).
Var softmax_cross_entropy(const Var& logits, const Tensor& targets,
                          const CrossEntropySpec& spec = {});
Var mse(const Var& a, const Var& b);  // mean squared difference, [1]
Var l1(const Var& a, const Var& b);   // mean absolute difference, [1]
// The structural similarity of images [B,C,H,W], H and W at least 11, the mean over all: [1]. With
// the window and constants of MetricMode::kDefault (attacks/core/metrics.h): Gaussian of 11x11 and
// sigma 1.5, range 1.
Var ssim(const Var& a, const Var& b);
// Mean squared horizontal plus mean squared vertical difference of neighbours (He et al. 2019).
Var total_variation(const Var& images);

// ---- helpers without gradients
std::vector<int32_t> argmax_rows(const Tensor& scores);  // [B,K] -> B indices
// The k largest scores of each row of [B,K], falling; of equal ones the first comes first.
struct TopK {
  std::vector<int32_t> index;  // B * k
  std::vector<float> score;
};
TopK top_k(const Tensor& scores, int64_t k);
double accuracy(const Tensor& logits, const Tensor& labels);  // fraction correct

}  // namespace ens
