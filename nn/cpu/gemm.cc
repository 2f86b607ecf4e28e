// SPDX-License-Identifier: Apache-2.0
// Matrix products.
#include <bit>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/dnnl_compat.h"
#include "nn/cpu/primitive_cache.h"

namespace ens::cpu {
namespace {

struct Matmul {
  dnnl::matmul primitive;
  MemoryDesc a, b, c, scratchpad;
};

// The last two axes of t; what comes before them is one axis of products.
MemoryDesc matrices(const Tensor& t, bool transposed) {
  const int64_t rows = t.dim(t.rank() - 2), columns = t.dim(t.rank() - 1);
  dnnl::memory::dims dims{rows, columns}, strides{columns, 1};
  if (transposed) dims = {columns, rows}, strides = {1, columns};
  if (t.rank() > 2) {
    dims.insert(dims.begin(), t.numel() / (rows * columns));
    strides.insert(strides.begin(), rows * columns);
  }
  return {dims, to_dnnl(t.dtype()), strides};
}

}  // namespace

void CpuBackend::gemm(bool transpose_a, bool transpose_b, float alpha, const Tensor& a,
                      const Tensor& b, float beta, Tensor& c) {
  prepare_threads();
  if (c.numel() == 0) return;
  const int64_t k = a.dim(transpose_a ? a.rank() - 2 : a.rank() - 1);
  if (k == 0) {
    if (beta == 0.0f) return fill(c, 0.0f);
    const Tensor scaled = unary(UnaryOp::kAffine, c, beta, 0.0f);
    return copy(scaled, c);
  }
  if (a.rank() == 2 && a.dtype() == Dtype::kF32 && c.dtype() == Dtype::kF32) {
    const Tensor b32 = b.to(Dtype::kF32);
    const auto status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', c.dim(0),
                                   c.dim(1), k, alpha, a.data<float>(), a.dim(1), b32.data<float>(),
                                   b32.dim(1), beta, c.data<float>(), c.dim(1));
    if (status != dnnl_success) {
      fail("oneDNN refused a matrix product of " + a.shape().str() + " and " + b.shape().str(),
           "cpu");
    }
    return;
  }
  if (through_float32(a.dtype())) {
    Tensor sum = c.to(Dtype::kF32);
    gemm(transpose_a, transpose_b, alpha, a.to(Dtype::kF32), b, beta, sum);
    if (c.dtype() != Dtype::kF32) c.copy_from(sum);
    return;
  }
  const Tensor other = b.to(a.dtype());
  thread_local PrimitiveCache<Matmul> cache;
  Key key(0);
  key.add(transpose_a);
  key.add(transpose_b);
  key.add(std::bit_cast<uint32_t>(alpha));
  key.add(std::bit_cast<uint32_t>(beta));
  key.add(a.shape());
  key.add(other.shape());
  key.add(c.shape());
  key.add(a.dtype());
  key.add(c.dtype());
  const Matmul& m = cache.get(key, [&] {
    dnnl::post_ops ops;
    if (alpha != 1.0f) append_eltwise(ops, dnnl::algorithm::eltwise_linear, alpha, 0.0f);
    if (beta != 0.0f) ops.append_sum(beta);
    dnnl::primitive_attr attr = user_scratchpad();
    attr.set_post_ops(ops);
    const MemoryDesc da = matrices(a, transpose_a), db = matrices(other, transpose_b),
                     dc = matrices(c, false);
    const auto pd = matmul_pd(da, db, dc, attr);
    return Matmul{dnnl::matmul(pd), da, db, dc, pd.scratchpad_desc()};
  });
  execute(m.primitive, m.scratchpad,
          {{DNNL_ARG_SRC, bind(m.a, a.host())},
           {DNNL_ARG_WEIGHTS, bind(m.b, other.host())},
           {DNNL_ARG_DST, bind(m.c, c.host())}});
}

}  // namespace ens::cpu
