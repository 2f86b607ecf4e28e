// SPDX-License-Identifier: Apache-2.0
// One convolution and what is fused behind it, and what the emulated cuDNN's files share.
#pragma once

#include <cudnn.h>

#include <cstddef>
#include <cstdint>

#include "tests/support/cuda_emulator/libraries.h"

struct cudnnContext {  // what a cudnnHandle_t points to
  int device = 0;
  cudaStream_t stream = nullptr;
};

namespace ens::emulator {

cudaDataType_t cuda_type(cudnnDataType_t type);  // dies for a type that is not emulated

// A tensor of rank 4: N, C, H, W; of a filter K, C / groups, R, S. None, if it is empty.
struct Image {
  cudaDataType_t type = CUDA_R_32F;
  int64_t size[4] = {}, stride[4] = {};  // elements from one to the next; 0 repeats a number
  void* data = nullptr;

  int64_t numel() const { return size[0] * size[1] * size[2] * size[3]; }
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3];
  }
  size_t reach() const {  // bytes
    const int64_t last = at(size[0] - 1, size[1] - 1, size[2] - 1, size[3] - 1);
    return static_cast<size_t>(last + 1) * bytes_of(type);
  }
};

enum class Pass { kForward, kGradInput, kGradWeight };

struct Convolution {
  const char* call = "";  // is named where an operand does not lie in memory of the device
  int device = 0;
  Pass pass = Pass::kForward;
  Image x, w, y;  // the pass computes one of them from the others
  int64_t pad[2] = {}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  bool tf32 = false;  // float32 factors are rounded
  // Forward: y = relu(scale * convolution + z + bias), each if there.
  Image scale, z, bias;
  bool relu = false;

  int64_t groups() const { return x.size[1] / w.size[1]; }
};

bool sizes_fit(const Convolution& c);

// Computes it, in work that a stream executes.
void convolve(const Convolution& c);

// Some, so that programs have to provide it; not what the real one asks for.
inline size_t workspace_for(const Image& x) { return 512 + static_cast<size_t>(x.size[1]) * 64; }

}  // namespace ens::emulator
