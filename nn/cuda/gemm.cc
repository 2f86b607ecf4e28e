// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/gemm.h"

#include "base/error.h"
#include "nn/cuda/context.h"
#include "nn/cuda/cuda_backend.h"

namespace ens::cuda {
namespace {

cudaDataType_t to_cuda(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return CUDA_R_32F;
    case Dtype::kBF16:
      return CUDA_R_16BF;
    case Dtype::kF16:
      return CUDA_R_16F;
    default:
      fail(std::string("matrices cannot be ") + name(dtype), "CUDA");
  }
}

}  // namespace

void multiply(Context& c, const Product& p, const void* a, const void* b, Dtype in, void* to,
              Dtype out) {
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  // cuBLAS sees rows as columns: c' = op(b)' op(a)'.
  const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                          op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int ldb = size(p.transpose_b ? p.k : p.n), lda = size(p.transpose_a ? p.m : p.k);
  const cublasComputeType_t compute =
      p.tf32 && in == Dtype::kF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  if (p.batch == 1) {
    check(cublasGemmEx(c.blas(), op_b, op_a, size(p.n), size(p.m), size(p.k), &p.alpha, b,
                       to_cuda(in), ldb, a, to_cuda(in), lda, &p.beta, to, to_cuda(out), size(p.n),
                       compute, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
    return;
  }
  check(cublasGemmStridedBatchedEx(c.blas(), op_b, op_a, size(p.n), size(p.m), size(p.k), &p.alpha,
                                   b, to_cuda(in), ldb, p.k * p.n, a, to_cuda(in), lda, p.m * p.k,
                                   &p.beta, to, to_cuda(out), size(p.n), p.m * p.n, size(p.batch),
                                   compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

void CudaBackend::gemm(bool transpose_a, bool transpose_b, float alpha, const Tensor& a,
                       const Tensor& b, float beta, Tensor& c) {
  if (c.numel() == 0) return;
  const int rank = c.rank();
  const int64_t m = c.dim(rank - 2), n = c.dim(rank - 1);
  const int64_t k = a.dim(transpose_a ? rank - 2 : rank - 1);
  if (k == 0) {
    if (beta == 0.0f) return fill(c, 0.0f);
    const Tensor scaled = unary(UnaryOp::kAffine, c, beta, 0.0f);
    return copy(scaled, c);
  }
  const Tensor other = b.to(a.dtype());
  if (c.dtype() != a.dtype() && c.dtype() != Dtype::kF32) {
    Tensor wide = c.to(Dtype::kF32);
    gemm(transpose_a, transpose_b, alpha, a, other, beta, wide);
    return copy(wide, c);
  }
  Context& ctx = context(device_);
  multiply(ctx, {transpose_a, transpose_b, m, n, k, alpha, beta, tf32_, c.numel() / (m * n)},
           read_raw(ctx, a), read_raw(ctx, other), a.dtype(), write_raw(ctx, c), c.dtype());
}

}  // namespace ens::cuda
