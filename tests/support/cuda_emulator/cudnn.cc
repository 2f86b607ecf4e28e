// SPDX-License-Identifier: Apache-2.0
// cuDNN's handles, version and statuses.
#include <cudnn.h>

#include "tests/support/cuda_emulator/convolve.h"

using namespace ens::emulator;

size_t cudnnGetVersion() { return CUDNN_VERSION; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
#define ENS_STATUS(Name) \
  case Name:             \
    return #Name
  switch (status) {
    ENS_STATUS(CUDNN_STATUS_SUCCESS);
    ENS_STATUS(CUDNN_STATUS_NOT_INITIALIZED);
    ENS_STATUS(CUDNN_STATUS_BAD_PARAM);
    ENS_STATUS(CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    ENS_STATUS(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    ENS_STATUS(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
    ENS_STATUS(CUDNN_STATUS_NOT_SUPPORTED);
    ENS_STATUS(CUDNN_STATUS_EXECUTION_FAILED);
    default:
      return "another cuDNN status";
  }
#undef ENS_STATUS
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  const Lock lock(machine());
  if (forbidden_by_capture() != cudaSuccess) return CUDNN_STATUS_INTERNAL_ERROR;
  *handle = new cudnnContext{current_device()};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  const Lock lock(machine());
  if (device_of(stream) != handle->device) return CUDNN_STATUS_BAD_PARAM;
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
