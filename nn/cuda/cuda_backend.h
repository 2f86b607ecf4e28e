// SPDX-License-Identifier: Apache-2.0
// The Backend of one GPU: cuDNN convolutions, cuBLAS matrix products, own kernels for the rest.
//
// Images are kChannelsLast inside: convolutions, pooling and normalisation answer in it and convert
// what comes in another layout. Activations are float32, bfloat16 or float16; parameters float32.
// All work is asynchronous on the calling thread's streams (nn/cuda/context.h); copies to the CPU
// wait until the elements are there. Results of one input are equal from run to run: sums have a
// fixed order, and cuDNN's engines that sum in no fixed order come last.
#pragma once

#include <atomic>
#include <memory>

#include "nn/core/backend.h"

namespace ens::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device);
  Device device() const override { return {Device::Type::kCuda, device_}; }
  std::string description() const override { return description_; }
  bool supports(Dtype dtype) const override;
  bool serves(Dtype dtype) const override {
    return supports(dtype) || (dtype == Dtype::kF8 && has_float8_);
  }
  void allow_tf32(bool yes) override { tf32_ = yes; }
  std::shared_ptr<void> allocate(size_t bytes) override;
  void synchronize() override;
  std::function<float()> item_later(const Tensor& t) override;
  std::unique_ptr<CapturedGraph> capture(const std::function<void()>& work) override;

  // copy.cu
  void copy(const Tensor& src, Tensor& dst) override;
  void fill(Tensor& dst, float value) override;
  Tensor slice(const Tensor& x, int axis, int64_t start, int64_t length) override;
  void slice_update(const Tensor& src, Tensor& dst, int axis, int64_t start) override;

  bool can_crop() const override { return true; }
  Tensor crop(const Tensor& pixels, const Tensor& where) override;

  // elementwise.cu
  Tensor unary(UnaryOp op, const Tensor& x, float a, float b) override;
  Tensor unary_grad(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy, float a,
                    float b) override;
  Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) override;
  void axpy(float alpha, const Tensor& x, Tensor& y) override;

  // reduce.cu
  Tensor sum_to(const Tensor& x, const Shape& shape) override;
  Tensor softmax_cross_entropy(const Tensor& logits, const Tensor& targets,
                               const CrossEntropySpec& spec, Tensor& probs) override;
  Tensor softmax_cross_entropy_grad(const Tensor& probs, const Tensor& targets,
                                    const CrossEntropySpec& spec, const Tensor& weight,
                                    Dtype logits_dtype) override;

  // sequence.cu
  Tensor softmax(const Tensor& x, const SoftmaxMask& mask) override;
  Tensor softmax_grad(const Tensor& y, const Tensor& dy) override;
  Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps,
                    LayerNormSaved& saved) override;
  LayerNormGrads layer_norm_grad(const Tensor& dy, const Tensor& x, const Tensor& gamma,
                                 const LayerNormSaved& saved) override;
  Tensor permute(const Tensor& x, std::span<const int> order) override;
  Tensor gather(const Tensor& table, const Tensor& ids) override;
  Tensor gather_grad(const Tensor& dy, const Tensor& ids, int64_t rows, int32_t none) override;

  // gemm.cc
  void gemm(bool transpose_a, bool transpose_b, float alpha, const Tensor& a, const Tensor& b,
            float beta, Tensor& c) override;

  // conv.cc
  Tensor prepare_conv_weight(const Tensor& w, Dtype activations) override;
  Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                const ConvSpec& spec) override;
  Tensor conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                           const Shape& x_shape) override;
  Tensor conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                            const Shape& w_shape) override;

  std::vector<ConvCandidate> explain_conv(const ConvProblem& problem) const override;

  // int8_product.cu
  Tensor conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) override;
  Tensor gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) override;

  // parameters.cu
  void prepare_conv_weights(std::span<const Tensor> from, std::span<Tensor> to) override;
  void sgd_step(std::span<const Update> updates, const Tensor& rates, const SgdStep& s) override;
  void adam_step(std::span<const Update> updates, const Tensor& rates, const AdamStep& s) override;

  // pool.cu
  Tensor max_pool(const Tensor& x, const PoolSpec& spec, bool want_grad,
                  Tensor& workspace) override;
  Tensor max_pool_grad(const Tensor& dy, const Tensor& workspace, const PoolSpec& spec,
                       const Shape& x_shape) override;
  Tensor avg_pool(const Tensor& x, const PoolSpec& spec) override;
  Tensor avg_pool_grad(const Tensor& dy, const PoolSpec& spec, const Shape& x_shape) override;
  Tensor global_avg_pool(const Tensor& x) override;
  Tensor global_avg_pool_grad(const Tensor& dy, const Shape& x_shape) override;

  // norm.cu
  Tensor batch_norm_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                          const Tensor& residual, const BatchNormSpec& spec,
                          BatchNormSaved& saved) override;
  BatchNormGrads batch_norm_train_grad(const Tensor& dy, const Tensor& x, const Tensor& y,
                                       const Tensor& gamma, const Tensor& beta, bool has_residual,
                                       const BatchNormSpec& spec,
                                       const BatchNormSaved& saved) override;

  // channel_affine.cu
  Tensor channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                        bool relu) override;
  Tensor channel_affine_grad(const Tensor& dy, const Tensor& y, const Tensor& scale,
                             bool relu) override;

  // executable.cc
  std::unique_ptr<Executable> compile(const std::vector<Graph>& nets, Dtype dtype,
                                      int64_t max_batch) override;

 private:
  int device_;
  std::atomic<bool> tf32_{true};
  bool has_float8_ = false;
  std::string description_;  // "NVIDIA H200, CUDA 13.0, cuDNN 9.19.0"
};

std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace ens::cuda
