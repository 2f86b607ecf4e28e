// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cuda_emulator/libraries.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ens::emulator {

size_t bytes_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_32F:
    case CUDA_R_32I:
      return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
      return 2;
    case CUDA_R_8I:
    case CUDA_R_8F_E4M3:
      return 1;
    default:
      die("a library was called with data type " + std::to_string(type) +
          ", which is not emulated");
  }
}

float load(const void* base, cudaDataType_t type, int64_t index) {
  switch (type) {
    case CUDA_R_32F:
      return static_cast<const float*>(base)[index];
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(base)[index]);
    case CUDA_R_16BF: {
      const uint32_t bits = static_cast<const uint16_t*>(base)[index];
      return std::bit_cast<float>(bits << 16);
    }
    case CUDA_R_8F_E4M3:
      return __half2float(
          __nv_cvt_fp8_to_halfraw(static_cast<const uint8_t*>(base)[index], __NV_E4M3));
    default:
      bytes_of(type);
      die("numbers of data type " + std::to_string(type) + " are not emulated");
  }
}

void store(void* base, cudaDataType_t type, int64_t index, float value) {
  switch (type) {
    case CUDA_R_32F:
      static_cast<float*>(base)[index] = value;
      return;
    case CUDA_R_16F:
      static_cast<__half*>(base)[index] = __float2half_rn(value);
      return;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(base)[index] = __float2bfloat16_rn(value);
      return;
    case CUDA_R_8F_E4M3:  // no number becomes infinite or NaN: 448 at most
      static_cast<uint8_t*>(base)[index] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
      return;
    default:
      die("numbers of data type " + std::to_string(type) + " are not emulated");
  }
}

// 10 bits of mantissa, rounded to nearest.
float to_tf32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;
  return std::bit_cast<float>((bits + 0x1000u) & ~0x1fffu);
}

cudaError_t enqueue_call(cudaStream_t stream, const char* call, void* workspace, size_t bytes,
                         Work work) {
  static uint64_t calls = 0;
  const uint64_t stamp = ++calls;
  const int device = device_of(stream);
  if (bytes >= sizeof stamp) {
    if (const cudaError_t error = enqueue(stream, {call}, [=] {
          check_access(workspace, bytes, device, call);
          std::memset(workspace, 0xff, std::min<size_t>(bytes, 4096));
          std::memcpy(workspace, &stamp, sizeof stamp);
        })) {
      return set_error(error);
    }
  }
  return set_error(enqueue(stream, {call}, [=, w = std::move(work)] {
    if (bytes >= sizeof stamp) {
      check_access(workspace, bytes, device, call);
      if (std::memcmp(workspace, &stamp, sizeof stamp) != 0) {
        die(std::string(call) + ": its workspace was written by other work while it was in use");
      }
    }
    w();
  }));
}

}  // namespace ens::emulator
