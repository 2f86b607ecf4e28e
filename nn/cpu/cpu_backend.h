// SPDX-License-Identifier: Apache-2.0
// The CPU's Backend: oneDNN convolutions and matrix products, own vectorised loops for the rest.
//
// Results keep the layout of the activation they are made from; convolutions choose it
// (preferred_layout in dnnl_util.h). Stateless: any number of threads may call at once, and each
// call's work is split over the caller's OpenMP team (base/threads.h).
#pragma once

#include "nn/core/backend.h"

namespace ens::cpu {

class CpuBackend : public Backend {
 public:
  CpuBackend();
  Device device() const override { return {}; }
  std::string description() const override;
  // bfloat16 only where the processor has instructions for it.
  bool supports(Dtype dtype) const override;
  bool serves(Dtype dtype) const override;
  std::shared_ptr<void> allocate(size_t bytes) override;

  // copy.cc
  void copy(const Tensor& src, Tensor& dst) override;
  void fill(Tensor& dst, float value) override;
  Tensor slice(const Tensor& x, int axis, int64_t start, int64_t length) override;
  void slice_update(const Tensor& src, Tensor& dst, int axis, int64_t start) override;

  // elementwise.cc
  Tensor unary(UnaryOp op, const Tensor& x, float a, float b) override;
  Tensor unary_grad(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy, float a,
                    float b) override;
  Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) override;
  void axpy(float alpha, const Tensor& x, Tensor& y) override;
  void sgd_step(std::span<const Update> updates, const Tensor& rates, const SgdStep& s) override;
  void adam_step(std::span<const Update> updates, const Tensor& rates, const AdamStep& s) override;

  // reduce.cc
  Tensor sum_to(const Tensor& x, const Shape& shape) override;
  Tensor softmax_cross_entropy(const Tensor& logits, const Tensor& targets,
                               const CrossEntropySpec& spec, Tensor& probs) override;
  Tensor softmax_cross_entropy_grad(const Tensor& probs, const Tensor& targets,
                                    const CrossEntropySpec& spec, const Tensor& weight,
                                    Dtype logits_dtype) override;

  // sequence.cc
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
  Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                const ConvSpec& spec) override;
  Tensor conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                           const Shape& x_shape) override;
  Tensor conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                            const Shape& w_shape) override;

  std::vector<ConvCandidate> explain_conv(const ConvProblem& problem) const override;

  // int8_product.cc
  Tensor conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) override;
  Tensor gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) override;

  // pool.cc
  Tensor max_pool(const Tensor& x, const PoolSpec& spec, bool want_grad,
                  Tensor& workspace) override;
  Tensor max_pool_grad(const Tensor& dy, const Tensor& workspace, const PoolSpec& spec,
                       const Shape& x_shape) override;
  Tensor avg_pool(const Tensor& x, const PoolSpec& spec) override;
  Tensor avg_pool_grad(const Tensor& dy, const PoolSpec& spec, const Shape& x_shape) override;
  Tensor global_avg_pool(const Tensor& x) override;
  Tensor global_avg_pool_grad(const Tensor& dy, const Shape& x_shape) override;

  // norm.cc
  Tensor batch_norm_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                          const Tensor& residual, const BatchNormSpec& spec,
                          BatchNormSaved& saved) override;
  BatchNormGrads batch_norm_train_grad(const Tensor& dy, const Tensor& x, const Tensor& y,
                                       const Tensor& gamma, const Tensor& beta, bool has_residual,
                                       const BatchNormSpec& spec,
                                       const BatchNormSaved& saved) override;
  Tensor channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                        bool relu) override;
  Tensor channel_affine_grad(const Tensor& dy, const Tensor& y, const Tensor& scale,
                             bool relu) override;

  std::unique_ptr<Executable> compile(const std::vector<Graph>& nets, Dtype dtype,
                                      int64_t max_batch) override;
};

}  // namespace ens::cpu
