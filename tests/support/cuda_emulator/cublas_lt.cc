// SPDX-License-Identifier: Apache-2.0
// cublasLt: products with a bias and ReLU behind them, strided batches.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>

#include "tests/support/cuda_emulator/gemm.h"

namespace ens::emulator {
namespace {

// What the handles that the header declares point to.
struct Desc {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  int32_t pointers = CUBLASLT_POINTER_MODE_HOST;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int64_t bias_stride = 0;
  int32_t bias_type = -1;  // -1: that of d
};
struct MatrixLayout {
  cudaDataType_t type = CUDA_R_32F;
  uint64_t rows = 0, columns = 0;
  int64_t ld = 0;
  int32_t order = CUBLASLT_ORDER_COL;
  int32_t batches = 1;
  int64_t stride = 0;
};
struct Preference {
  uint64_t most_workspace = 0;
};

constexpr size_t kWorkspace = 1024;

Desc* of(cublasLtMatmulDesc_t d) { return reinterpret_cast<Desc*>(d); }
MatrixLayout* of(cublasLtMatrixLayout_t l) { return reinterpret_cast<MatrixLayout*>(l); }
Preference* of(cublasLtMatmulPreference_t p) { return reinterpret_cast<Preference*>(p); }

template <typename T>
cublasStatus_t put(T& target, const void* value, size_t bytes) {
  if (bytes != sizeof target) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&target, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

bool consistent(const Desc& d, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& c,
                const MatrixLayout& out) {
  const auto rows = [](const MatrixLayout& l, int32_t op) {
    return op == CUBLAS_OP_N ? l.rows : l.columns;
  };
  const auto columns = [](const MatrixLayout& l, int32_t op) {
    return op == CUBLAS_OP_N ? l.columns : l.rows;
  };
  for (const MatrixLayout* l : {&a, &b, &c, &out}) {
    const uint64_t inner = l->order == CUBLASLT_ORDER_COL ? l->rows : l->columns;
    if (l->ld < static_cast<int64_t>(inner) || l->batches != out.batches) return false;
  }
  return rows(a, d.transpose_a) == out.rows && columns(b, d.transpose_b) == out.columns &&
         columns(a, d.transpose_a) == rows(b, d.transpose_b) && c.rows == out.rows &&
         c.columns == out.columns && a.type == b.type && c.type == out.type &&
         (out.type == a.type || out.type == CUDA_R_32F);
}

Operand operand(const MatrixLayout& l, const void* data) {
  return {const_cast<void*>(data), l.type, l.ld, l.stride, l.order == CUBLASLT_ORDER_ROW};
}

}  // namespace
}  // namespace ens::emulator

using namespace ens::emulator;

struct cublasLtContext {
  int device = 0;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  const Lock lock(machine());
  *handle = new cublasLtContext{current_device()};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F ||
      (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32)) {
    die("cublasLtMatmulDescCreate: only float32 sums are emulated");
  }
  auto* d = new Desc;
  d->compute = compute;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(d);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete of(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  Desc& d = *of(desc);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return put(d.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return put(d.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return put(d.pointers, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return put(d.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return put(d.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
      return put(d.bias_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return put(d.bias_type, value, bytes);
    default:
      die("cublasLtMatmulDescSetAttribute: attribute " + std::to_string(attribute) +
          " is not emulated");
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new MatrixLayout{type, rows, columns, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete of(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  MatrixLayout& l = *of(layout);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return put(l.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return put(l.batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return put(l.stride, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return put(l.ld, value, bytes);
    default:
      die("cublasLtMatrixLayoutSetAttribute: attribute " + std::to_string(attribute) +
          " is not emulated");
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete of(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    return put(of(preference)->most_workspace, value, bytes);
  }
  return CUBLAS_STATUS_SUCCESS;  // alignments and the like choose among real kernels
}

// Two suggestions: with a workspace, if there may be one, and without.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = 0;
  if (!consistent(*of(desc), *of(a), *of(b), *of(c), *of(d))) return CUBLAS_STATUS_INVALID_VALUE;
  for (const size_t workspace : {kWorkspace, size_t{0}}) {
    if (workspace > of(preference)->most_workspace || *found == wanted) continue;
    cublasLtMatmulHeuristicResult_t& r = results[(*found)++];
    r = {};
    r.algo.data[0] = workspace;
    r.workspaceSize = workspace;
    r.state = CUBLAS_STATUS_SUCCESS;
    r.wavesCount = 1;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const Lock lock(machine());
  if (handle->device != current_device()) die("cublasLtMatmul: a handle of another device");
  const Desc& how = *of(desc);
  if (how.pointers != CUBLASLT_POINTER_MODE_HOST) die("cublasLtMatmul: scalars on the device");
  if (!consistent(how, *of(a_layout), *of(b_layout), *of(c_layout), *of(d_layout)) ||
      (algorithm && workspace_bytes < algorithm->data[0])) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  Gemm g;
  g.m = static_cast<int64_t>(of(d_layout)->rows);
  g.n = static_cast<int64_t>(of(d_layout)->columns);
  g.transpose_a = how.transpose_a != CUBLAS_OP_N;
  g.transpose_b = how.transpose_b != CUBLAS_OP_N;
  g.k = static_cast<int64_t>(g.transpose_a ? of(a_layout)->rows : of(a_layout)->columns);
  g.alpha = *static_cast<const float*>(alpha);
  g.beta = *static_cast<const float*>(beta);
  g.a = operand(*of(a_layout), a);
  g.b = operand(*of(b_layout), b);
  g.c = operand(*of(c_layout), c);
  g.d = operand(*of(d_layout), d);
  g.batches = of(d_layout)->batches;
  g.tf32 = how.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  g.device = handle->device;
  switch (how.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
      break;
    case CUBLASLT_EPILOGUE_RELU:
      g.relu = true;
      break;
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_BIAS:
      g.relu = how.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
      if (!how.bias) return CUBLAS_STATUS_INVALID_VALUE;
      g.bias = how.bias;
      g.bias_stride = how.bias_stride;
      g.bias_type = how.bias_type < 0 ? g.d.type : static_cast<cudaDataType_t>(how.bias_type);
      break;
    default:
      die("cublasLtMatmul: epilogue " + std::to_string(how.epilogue) + " is not emulated");
  }
  const cudaError_t error = enqueue_call(stream, "cublasLtMatmul", workspace,
                                         algorithm ? algorithm->data[0] : workspace_bytes,
                                         [g] { gemm_now(g, "cublasLtMatmul"); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
