// SPDX-License-Identifier: Apache-2.0
// cuBLAS: GemmEx and GemmStridedBatchedEx, computed in float32 (or TF32) on the CPU with Eigen.
#include <cublas_v2.h>

#include <Eigen/Core>
#include <vector>

#include "tests/support/cuda_emulator/gemm.h"
#include "tests/support/cuda_emulator/libraries.h"

struct cublasContext {
  int device = 0;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};

namespace ens::emulator {

void gemm_now(const Gemm& g, const char* call) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic>;
  const auto read = [&](const Operand& o, bool transposed, int64_t rows, int64_t columns,
                        int64_t batch) {
    Matrix m(rows, columns);
    const int64_t stored_rows = transposed ? columns : rows,
                  stored_columns = transposed ? rows : columns;
    const auto* start = static_cast<const char*>(o.data) +
                        batch * o.batch_stride * static_cast<int64_t>(bytes_of(o.type));
    check_access(start, o.reach(stored_rows, stored_columns), g.device, call);
    for (int64_t c = 0; c < stored_columns; ++c) {
      for (int64_t r = 0; r < stored_rows; ++r) {
        float v = load(start, o.type, o.at(r, c));
        if (g.tf32 && o.type == CUDA_R_32F) v = to_tf32(v);
        (transposed ? m(c, r) : m(r, c)) = v;
      }
    }
    return m;
  };
  for (int64_t batch = 0; batch < g.batches; ++batch) {
    Matrix sum = Matrix::Zero(g.m, g.n);
    if (g.k > 0 && g.alpha != 0.0f) {
      const Matrix a = read(g.a, g.transpose_a, g.m, g.k, batch);
      const Matrix b = read(g.b, g.transpose_b, g.k, g.n, batch);
      sum.noalias() = a * b;
    }
    const auto start = [&](const Operand& o) {
      return static_cast<char*>(o.data) +
             batch * o.batch_stride * static_cast<int64_t>(bytes_of(o.type));
    };
    char* d = start(g.d);
    const char* c = start(g.c);
    check_access(d, g.d.reach(g.m, g.n), g.device, call);
    if (g.beta != 0.0f) check_access(c, g.c.reach(g.m, g.n), g.device, call);
    const char* bias = nullptr;
    if (g.bias) {
      const auto size = static_cast<int64_t>(bytes_of(g.bias_type));
      bias = static_cast<const char*>(g.bias) + batch * g.bias_stride * size;
      check_access(bias, static_cast<size_t>(g.m * size), g.device, call);
    }
    for (int64_t column = 0; column < g.n; ++column) {
      for (int64_t row = 0; row < g.m; ++row) {
        float v = g.alpha * sum(row, column);
        if (g.beta != 0.0f) v += g.beta * load(c, g.c.type, g.c.at(row, column));
        if (bias) v += load(bias, g.bias_type, row);
        if (g.relu) v = v > 0.0f ? v : 0.0f;
        store(d, g.d.type, g.d.at(row, column), v);
      }
    }
  }
}

namespace {

bool known(cublasComputeType_t type) {
  return type == CUBLAS_COMPUTE_32F || type == CUBLAS_COMPUTE_32F_FAST_TF32 ||
         type == CUBLAS_COMPUTE_32F_PEDANTIC;
}

cublasStatus_t gemm(cublasHandle_t h, const char* call, cublasOperation_t op_a,
                    cublasOperation_t op_b, int m, int n, int k, const void* alpha, const void* a,
                    cudaDataType_t type_a, int lda, long long stride_a, const void* b,
                    cudaDataType_t type_b, int ldb, long long stride_b, const void* beta, void* c,
                    cudaDataType_t type_c, int ldc, long long stride_c, int batches,
                    cublasComputeType_t compute) {
  const Lock lock(machine());
  if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (h->device != current_device()) die(std::string(call) + ": a handle of another device");
  if (h->pointers != CUBLAS_POINTER_MODE_HOST) die(std::string(call) + ": scalars on the device");
  if (!known(compute)) die(std::string(call) + ": compute type " + std::to_string(compute));
  const bool ta = op_a != CUBLAS_OP_N, tb = op_b != CUBLAS_OP_N;
  if (m < 0 || n < 0 || k < 0 || batches < 0 || lda < std::max(1, ta ? k : m) ||
      ldb < std::max(1, tb ? n : k) || ldc < std::max(1, m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (type_a != type_b || (type_c != type_a && type_c != CUDA_R_32F)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (m == 0 || n == 0 || batches == 0) return CUBLAS_STATUS_SUCCESS;
  Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.transpose_a = ta;
  g.transpose_b = tb;
  g.alpha = *static_cast<const float*>(alpha);
  g.beta = *static_cast<const float*>(beta);
  g.a = {const_cast<void*>(a), type_a, lda, stride_a};
  g.b = {const_cast<void*>(b), type_b, ldb, stride_b};
  g.c = g.d = {c, type_c, ldc, stride_c};
  g.batches = batches;
  g.tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
           (h->math == CUBLAS_TF32_TENSOR_OP_MATH && compute == CUBLAS_COMPUTE_32F);
  g.device = h->device;
  const cudaError_t error = enqueue_call(h->stream, call, h->workspace, h->workspace_bytes,
                                         [g, call] { gemm_now(g, call); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace
}  // namespace ens::emulator

using namespace ens::emulator;

// The real one asks for memory.
cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  const Lock lock(machine());
  if (forbidden_by_capture() != cudaSuccess) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = new cublasContext{current_device()};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
// Also forgets the workspace, as the real one does.
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  const Lock lock(machine());
  device_of(stream);
  handle->stream = stream;
  handle->workspace = nullptr;
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t math) {
  handle->math = math;
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "another cuBLAS status";
  }
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType_t type_a, int lda, const void* b, cudaDataType_t type_b,
                            int ldb, const void* beta, void* c, cudaDataType_t type_c, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t) {
  return gemm(handle, "cublasGemmEx", op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb,
              0, beta, c, type_c, ldc, 0, 1, compute);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType_t type_a,
                                          int lda, long long stride_a, const void* b,
                                          cudaDataType_t type_b, int ldb, long long stride_b,
                                          const void* beta, void* c, cudaDataType_t type_c, int ldc,
                                          long long stride_c, int batches,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
  return gemm(handle, "cublasGemmStridedBatchedEx", op_a, op_b, m, n, k, alpha, a, type_a, lda,
              stride_a, b, type_b, ldb, stride_b, beta, c, type_c, ldc, stride_c, batches, compute);
}
