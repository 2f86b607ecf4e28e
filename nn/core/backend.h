// SPDX-License-Identifier: Apache-2.0
// Backend: what a device must be able to do. One subclass per device (nn/cpu, nn/cuda).
//
// The operations that users see live in nn/autograd, where shapes are checked and gradients are
// written once for every backend. A backend only supplies verbs over tensors of its own device.
//
// Conventions, unless a verb says otherwise:
// - activations are kF32 or kBF16, and a result has the dtype of the first activation; parameters
//   (weights, bias, gamma, beta, running statistics) and their gradients are kF32 ("float32
//   master weights"), and the backend converts them on the way;
// - a backend may return any Layout, and must accept any; parameters are kPlain;
// - arguments are not checked again for shape: callers in nn/autograd have done so;
// - calls may come from several threads at once, on different tensors; each thread's calls take
//   effect in order.
#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

struct Graph;
class Executable;

// Square strides, symmetric zero padding. Kernel sizes come from the weight's shape.
struct ConvSpec {
  int stride = 1;
  int padding = 0;
  int dilation = 1;
  int groups = 1;
  bool operator==(const ConvSpec&) const = default;
};

// Zero padding is excluded from averages and never wins a maximum. Output size rounds down.
struct PoolSpec {
  int kernel = 2;
  int stride = 2;
  int padding = 0;
  bool operator==(const PoolSpec&) const = default;
};

// y as a function of x with constants a, b.
enum class UnaryOp {
  kAffine,     // a*x + b
  kRelu,       // max(x, 0)
  kLeakyRelu,  // x > 0 ? x : a*x
  kSigmoid,
  kTanh,
  kExp,
  kLog,
  kSqrt,
  kSquare,
  kAbs,
  kGelu,  // x * Phi(x), Phi the standard normal distribution function
};

enum class BinaryOp {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kAddRelu,  // max(a + b, 0): the end of a residual block
};

// Batch normalisation of a training step.
struct BatchNormSpec {
  float eps = 1e-5f;
  bool relu = false;  // at the end, after a residual
  // What the layer remembers of its batches, [C] float32, changed in place: running += momentum *
  // (this batch's - running), the variance without bias. Undefined: nothing.
  Tensor running_mean, running_var;
  float momentum = 0.1f;
};

// What batch_norm_train leaves for its gradient.
struct BatchNormSaved {
  Tensor mean, var;  // [C] float32: statistics of this batch, biased variance
  Tensor workspace;  // backend's own
};

struct BatchNormGrads {
  Tensor x, gamma, beta;
  Tensor residual;  // undefined where there was none
};

// What layer_norm leaves for its gradient: of each row, float32.
struct LayerNormSaved {
  Tensor mean, rstd;  // rstd: 1 / sqrt(var + eps)
};

struct LayerNormGrads {
  Tensor x, gamma, beta;
};

// Which columns the rows of a softmax over [B, .., Q, K] count; the others become 0.
struct SoftmaxMask {
  Tensor lengths;       // [B] int32, of batch entry b the first lengths[b] columns; undefined: all
  bool causal = false;  // row q only columns up to q + K - Q
};

struct CrossEntropySpec {
  // Of class indices: the target is (1 - smoothing) of the class and smoothing / K of every class.
  float smoothing = 0;
  // Rows of this class index have neither a loss nor a gradient.
  int32_t ignore = std::numeric_limits<int32_t>::min();
};

struct SgdStep {
  float momentum, weight_decay;
  bool nesterov;
};

struct AdamStep {
  float beta1, beta2, eps, weight_decay;
  bool decoupled;  // true: AdamW (decay of the weight), false: L2 added to the gradient
};

// Work that Backend::capture has kept, to be run again.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
  virtual void run() = 0;  // on the thread that captured it
};

// A parameter, its gradient, and what the optimiser remembers of it: of one shape, float32 and
// plain, but for the gradient, which may be as conv2d_grad_weight left it.
struct Update {
  Tensor param, grad;
  Tensor first;       // momentum, may be undefined; Adam's mean
  Tensor second;      // Adam's mean square
  Tensor max_second;  // undefined: plain Adam; else AMSGrad
};

// A convolution, as the choice between implementations of it sees it.
struct ConvProblem {
  Shape x, w, y;
  ConvSpec spec;
  Dtype dtype = Dtype::kF32;  // of the activations
  bool serving = false;       // in a compiled network, not by the verbs of a training
};

// An implementation of convolutions, and why it does not compute a given one; empty: it does, or
// is one of those that are timed on the device to find the fastest.
struct ConvCandidate {
  std::string name, description, rejected;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;
  virtual std::string description() const = 0;   // e.g. "CPU, 2 threads, avx512_core_amx"
  virtual bool supports(Dtype dtype) const = 0;  // fast enough to train and serve in
  // Whether compile() makes use of it: what is supported, and on CPUs with AVX2 or AVX-512
  // but no bfloat16 instructions its weights (half of the memory) with float32 arithmetic. On newer
  // GPUs float8, for the layers that are calibrated (nn/core/float8.h).
  virtual bool serves(Dtype dtype) const { return supports(dtype); }
  // Whether float32 products may round their factors to TF32 (11 bits), which is several times
  // faster on GPUs and the default there; elsewhere it means nothing.
  virtual void allow_tf32(bool) {}

  // Memory, 64-byte aligned, uninitialised; the pointer's deleter returns it to the cache.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
  // Waits until everything asked for is done. Needed before reading results on asynchronous
  // devices.
  virtual void synchronize() {}
  // The value of a one-element tensor: asked for now, waited for when the function is called, from
  // any thread. What is asked of the device in between runs meanwhile.
  virtual std::function<float()> item_later(const Tensor& t);
  // Runs `work` once and keeps what it asked of the device as a graph that can be run again with
  // the same memory (a CUDA graph). Returns null, with nothing done on the device, where that
  // cannot be done. `work` must have run once or twice on this thread before, and may not touch
  // host memory.
  virtual std::unique_ptr<CapturedGraph> capture(const std::function<void()>& work);

  // ---- copies and elementwise work
  // dst = src: same shape; converts dtype (f32, bf16, f16, u8, i8, i32 by value; CPU: f8, too) and
  // layout. Either side may be on the CPU.
  virtual void copy(const Tensor& src, Tensor& dst) = 0;
  virtual void fill(Tensor& dst, float value) = 0;
  virtual Tensor unary(UnaryOp op, const Tensor& x, float a, float b) = 0;
  // dx, from x, y = unary(x) and dy. All in any layout.
  virtual Tensor unary_grad(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy, float a,
                            float b) = 0;
  // Equal ranks; sizes equal or 1 (broadcast).
  virtual Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) = 0;
  virtual void axpy(float alpha, const Tensor& x, Tensor& y) = 0;  // y += alpha * x, same shape
  // Sum over every axis where `shape` has 1 and x has more; result float32, of `shape`.
  virtual Tensor sum_to(const Tensor& x, const Shape& shape) = 0;
  // x[:, .., start:start+length, ..] along axis; and its inverse, writing src into dst there.
  virtual Tensor slice(const Tensor& x, int axis, int64_t start, int64_t length) = 0;
  virtual void slice_update(const Tensor& src, Tensor& dst, int axis, int64_t start) = 0;

  // ---- linear algebra: c = alpha * op(a) op(b) + beta * c; row-major. The last two axes are the
  // matrices; what axes come before them are equal in all three, a batch of products. a and b of
  // one dtype (f32 or bf16), c of that dtype or f32; all plain.
  virtual void gemm(bool transpose_a, bool transpose_b, float alpha, const Tensor& a,
                    const Tensor& b, float beta, Tensor& c) = 0;

  // ---- convolution: x [B,C,H,W], w [O,C/groups,kh,kw] f32, bias [O] f32 or undefined.
  // The weight w in the dtype and layout in which conv2d and conv2d_grad_input compute with
  // activations of this dtype. Both accept the result in place of w, and then need not convert w in
  // every call. May return w itself, where there is nothing to convert.
  virtual Tensor prepare_conv_weight(const Tensor& w, Dtype activations);
  // The same for many weights at once, written into earlier results of prepare_conv_weight.
  virtual void prepare_conv_weights(std::span<const Tensor> from, std::span<Tensor> to);
  virtual Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                        const ConvSpec& spec) = 0;
  virtual Tensor conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                                   const Shape& x_shape) = 0;
  // May answer in the activations' dtype, and in any layout.
  virtual Tensor conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                                    const Shape& w_shape) = 0;

  // ---- exact products of 8-bit integers, which sum in int32. Checked: dtypes, shapes, and the
  // number of terms of a sum, which for factors of w or b in [-127, 127] keeps it within int32
  // (nn/core/int8_product.h). Beyond that sums wrap around.
  // y = conv2d(x, w): x kI8 or kU8 [B,C,H,W], w kI8 [O,C/groups,kh,kw] -> y kI32, kPlain.
  virtual Tensor conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) = 0;
  // c = op(a) op(b): 2-D, row-major, a kI8 or kU8, b kI8 -> c kI32.
  virtual Tensor gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) = 0;

  // The backend's implementations, best first, with what decides between them for this convolution.
  virtual std::vector<ConvCandidate> explain_conv(const ConvProblem& problem) const = 0;

  // ---- pooling
  // `workspace` receives what max_pool_grad needs (undefined if want_grad is false).
  virtual Tensor max_pool(const Tensor& x, const PoolSpec& spec, bool want_grad,
                          Tensor& workspace) = 0;
  virtual Tensor max_pool_grad(const Tensor& dy, const Tensor& workspace, const PoolSpec& spec,
                               const Shape& x_shape) = 0;
  virtual Tensor avg_pool(const Tensor& x, const PoolSpec& spec) = 0;
  virtual Tensor avg_pool_grad(const Tensor& dy, const PoolSpec& spec, const Shape& x_shape) = 0;
  virtual Tensor global_avg_pool(const Tensor& x) = 0;  // [B,C,H,W] -> [B,C], kPlain
  virtual Tensor global_avg_pool_grad(const Tensor& dy, const Shape& x_shape) = 0;

  // ---- batch normalisation over (B,H,W) of a 4-D or (B) of a 2-D tensor:
  // gamma * (x - mean) / sqrt(var + eps) + beta, + residual if that is defined, then ReLU if the
  // spec says so. residual has x's shape.
  virtual Tensor batch_norm_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                  const Tensor& residual, const BatchNormSpec& spec,
                                  BatchNormSaved& saved) = 0;
  // y is batch_norm_train's result; has_residual: whether it had one.
  virtual BatchNormGrads batch_norm_train_grad(const Tensor& dy, const Tensor& x, const Tensor& y,
                                               const Tensor& gamma, const Tensor& beta,
                                               bool has_residual, const BatchNormSpec& spec,
                                               const BatchNormSaved& saved) = 0;
  // y = x * scale[c] + shift[c], then ReLU if `relu`: batch norm with fixed statistics, and input
  // normalisation. scale, shift [C] f32. The gradient is that of x alone.
  virtual Tensor channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                bool relu) = 0;
  virtual Tensor channel_affine_grad(const Tensor& dy, const Tensor& y, const Tensor& scale,
                                     bool relu) = 0;

  // ---- sequences. Over the last axis, in float32 whatever the activations are; a softmax's row
  // without columns to count is all 0. Results are plain.
  virtual Tensor softmax(const Tensor& x, const SoftmaxMask& mask) = 0;
  virtual Tensor softmax_grad(const Tensor& y, const Tensor& dy) = 0;
  // gamma * (x - mean) / sqrt(var + eps) + beta, with the statistics of each row; gamma, beta [D].
  virtual Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps,
                            LayerNormSaved& saved) = 0;
  virtual LayerNormGrads layer_norm_grad(const Tensor& dy, const Tensor& x, const Tensor& gamma,
                                         const LayerNormSaved& saved) = 0;
  // Axis i of the result is axis order[i] of x.
  virtual Tensor permute(const Tensor& x, std::span<const int> order) = 0;
  // The rows `ids` [n] int32 of a table [V,D] -> [n,D]; an id that is no row gives NaN.
  virtual Tensor gather(const Tensor& table, const Tensor& ids) = 0;
  // The gradient of a table of V rows, [V,D] float32: for each row the sum of those dy [n,D] whose
  // id it is, in their order, so that runs repeat to the bit. Other ids, and `none`, add nothing.
  virtual Tensor gather_grad(const Tensor& dy, const Tensor& ids, int64_t rows, int32_t none) = 0;

  // ---- classification: logits [B,K], targets [B] i32 (classes) or [B,K] f32 (distributions) ->
  // losses [B] f32; probabilities in probs [B,K] f32. The gradient is
  // d(sum_b weight[b] * loss[b]) / d logits.
  virtual Tensor softmax_cross_entropy(const Tensor& logits, const Tensor& targets,
                                       const CrossEntropySpec& spec, Tensor& probs) = 0;
  virtual Tensor softmax_cross_entropy_grad(const Tensor& probs, const Tensor& targets,
                                            const CrossEntropySpec& spec, const Tensor& weight,
                                            Dtype logits_dtype) = 0;

  // ---- training data: pixels [N,C,H,W] u8 and where [B,4] i32, each row an image's index, the
  // window's top and left in the zero-padded image, and whether it is mirrored -> [B,C,H,W] f32 in
  // [0, 1], equal to the loader's own to the bit. Backends that have it keep data sets in their
  // memory.
  virtual bool can_crop() const { return false; }
  virtual Tensor crop(const Tensor& pixels, const Tensor& where);

  // ---- optimiser updates of many parameters, in place. What changes from step to step lies on the
  // device, so that a captured step sees it: rates is [3] float32, the learning rate and Adam's
  // bias corrections 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
  virtual void sgd_step(std::span<const Update> updates, const Tensor& rates, const SgdStep& s) = 0;
  virtual void adam_step(std::span<const Update> updates, const Tensor& rates,
                         const AdamStep& s) = 0;

  // ---- serving: prepares fused, frozen nets (nn/core/graph.h) for batches up to max_batch. They
  // are at least one, read the same input, and differ in the values of their weights only.
  virtual std::unique_ptr<Executable> compile(const std::vector<Graph>& nets, Dtype dtype,
                                              int64_t max_batch) = 0;
};

// The backend of a device. The CPU's is always there; others are there if offered and found.
// Thread-safe. Usage Error, with the reason, if the device is not there.
Backend& backend(Device device);
bool has_backend(Device::Type type);
void install_backend(std::unique_ptr<Backend> backend);

std::unique_ptr<Backend> make_cpu_backend();  // nn/cpu

// What a program that can use GPUs calls first (nn/cuda, also where it is built without CUDA).
// Cheap: GPUs are looked for when one is first asked for, and "auto" is one such question.
void offer_gpus();
// For offer_gpus: `find` installs a backend for every device it finds, and says why there is none.
void offer_devices(std::string (*find)());

}  // namespace ens
