// Matrix products.
#include "nn/core/error.h"
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

void CudaBackend::gemm(bool transpose_a, bool transpose_b, float alpha, const Tensor& a,
                       const Tensor& b, float beta, Tensor& c) {
  if (c.numel() == 0) return;
  const int64_t k = transpose_a ? a.dim(0) : a.dim(1);
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
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  const bool tf32 = a.dtype() == Dtype::kF32 && tf32_;
  // cuBLAS sees rows as columns: c' = op(b)' op(a)'.
  check(cublasGemmEx(ctx.blas(), transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                     transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, size(c.dim(1)), size(c.dim(0)),
                     size(k), &alpha, read_raw(ctx, other), to_cuda(a.dtype()), size(other.dim(1)),
                     read_raw(ctx, a), to_cuda(a.dtype()), size(a.dim(1)), &beta, write_raw(ctx, c),
                     to_cuda(c.dtype()), size(c.dim(1)),
                     tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

}  // namespace ens::cuda
