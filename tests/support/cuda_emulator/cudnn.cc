// cuDNN's classic convolutions, as matrix products over unfolded images in float32 (or TF32).
#include <cudnn.h>

#include <Eigen/Core>
#include <algorithm>
#include <vector>

#include "tests/support/cuda_emulator/libraries.h"

// Deprecated by NVIDIA, and emulated all the same.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

struct cudnnContext {
  int device = 0;
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct {
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  bool nhwc = false;
  int size[4] = {};  // N, C, H, W; of a filter K, C/groups, R, S

  bool operator==(const cudnnTensorStruct&) const = default;
  int64_t numel() const { return int64_t{size[0]} * size[1] * size[2] * size[3]; }
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return nhwc ? ((n * size[2] + h) * size[3] + w) * size[1] + c
                : ((n * size[1] + c) * size[2] + h) * size[3] + w;
  }
};
struct cudnnFilterStruct : cudnnTensorStruct {};
struct cudnnConvolutionStruct {
  int pad[2] = {}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  int groups = 1;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
};
struct cudnnActivationStruct {
  cudnnActivationMode_t mode = CUDNN_ACTIVATION_IDENTITY;
};

namespace ens::emulator {
namespace {

using Image = cudnnTensorStruct;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

cudaDataType_t cuda_type(cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_FLOAT:
      return CUDA_R_32F;
    case CUDNN_DATA_HALF:
      return CUDA_R_16F;
    case CUDNN_DATA_BFLOAT16:
      return CUDA_R_16BF;
    default:
      die("cuDNN data type " + std::to_string(type) + " is not emulated");
  }
}

enum class Pass { kForward, kGradInput, kGradWeight };

struct Convolution {
  const char* call = "";
  Pass pass = Pass::kForward;
  int device = 0;
  Image x, y, w;
  cudnnConvolutionStruct spec;
  float alpha = 1, beta = 0;
  const void* in_x = nullptr;
  const void* in_w = nullptr;
  const void* in_y = nullptr;
  void* out = nullptr;
  // Forward: out = activation(alpha * conv + beta * z + bias).
  const void* z = nullptr;
  const void* bias = nullptr;
  bool relu = false;

  bool tf32() const { return x.type == CUDNN_DATA_FLOAT && spec.math != CUDNN_FMA_MATH; }
};

// All numbers of an operand in NCHW order.
std::vector<float> read(const Convolution& c, const Image& d, const void* data) {
  const cudaDataType_t type = cuda_type(d.type);
  check_access(data, static_cast<size_t>(d.numel()) * bytes_of(type), c.device, c.call);
  std::vector<float> v(static_cast<size_t>(d.numel()));
  size_t i = 0;
  for (int n = 0; n < d.size[0]; ++n)
    for (int ch = 0; ch < d.size[1]; ++ch)
      for (int h = 0; h < d.size[2]; ++h)
        for (int w = 0; w < d.size[3]; ++w) {
          const float value = load(data, type, d.at(n, ch, h, w));
          v[i++] = c.tf32() ? to_tf32(value) : value;
        }
  return v;
}

void write(const Convolution& c, const Image& d, void* data, const std::vector<float>& v,
           float beta, const void* z) {
  const cudaDataType_t type = cuda_type(d.type);
  const size_t bytes = static_cast<size_t>(d.numel()) * bytes_of(type);
  check_access(data, bytes, c.device, c.call);
  if (beta != 0.0f) check_access(z, bytes, c.device, c.call);
  if (c.bias) {
    check_access(c.bias, static_cast<size_t>(d.size[1]) * bytes_of(type), c.device, c.call);
  }
  size_t i = 0;
  for (int n = 0; n < d.size[0]; ++n)
    for (int ch = 0; ch < d.size[1]; ++ch)
      for (int h = 0; h < d.size[2]; ++h)
        for (int w = 0; w < d.size[3]; ++w) {
          const int64_t at = d.at(n, ch, h, w);
          float value = c.alpha * v[i++];
          if (beta != 0.0f) value += beta * load(z, type, at);
          if (c.bias) value += load(c.bias, type, ch);
          if (c.relu) value = value > 0.0f ? value : 0.0f;
          store(data, type, at, value);
        }
}

// Calls f(row of the unfolded image, column, index in the plane) for every tap that meets a pixel.
template <typename F>
void for_taps(const Convolution& c, F f) {
  const int channels = c.w.size[1], kh = c.w.size[2], kw = c.w.size[3];
  const int height = c.x.size[2], width = c.x.size[3], oh = c.y.size[2], ow = c.y.size[3];
  for (int ch = 0, row = 0; ch < channels; ++ch)
    for (int r = 0; r < kh; ++r)
      for (int s = 0; s < kw; ++s, ++row)
        for (int i = 0; i < oh; ++i) {
          const int h = i * c.spec.stride[0] - c.spec.pad[0] + r * c.spec.dilation[0];
          if (h < 0 || h >= height) continue;
          for (int j = 0; j < ow; ++j) {
            const int w = j * c.spec.stride[1] - c.spec.pad[1] + s * c.spec.dilation[1];
            if (w >= 0 && w < width) f(row, i * ow + j, (ch * height + h) * width + w);
          }
        }
}

void convolve(const Convolution& c) {
  const int groups = c.spec.groups, batch = c.x.size[0];
  const int64_t in = c.w.size[1], out = c.w.size[0] / groups;
  const int64_t taps = in * c.w.size[2] * c.w.size[3];
  const int64_t plane_x = int64_t{c.x.size[2]} * c.x.size[3];
  const int64_t plane_y = int64_t{c.y.size[2]} * c.y.size[3];
  std::vector<float> x, w, y;
  const auto zeros = [](const Image& d) {
    return std::vector<float>(static_cast<size_t>(d.numel()));
  };
  x = c.pass == Pass::kGradInput ? zeros(c.x) : read(c, c.x, c.in_x);
  w = c.pass == Pass::kGradWeight ? zeros(c.w) : read(c, c.w, c.in_w);
  y = c.pass == Pass::kForward ? zeros(c.y) : read(c, c.y, c.in_y);
  Matrix unfolded(taps, plane_y);
  for (int n = 0; n < batch; ++n) {
    for (int g = 0; g < groups; ++g) {
      float* px = x.data() + (n * groups + g) * in * plane_x;
      Eigen::Map<Matrix> weight(w.data() + g * out * taps, out, taps);
      Eigen::Map<Matrix> result(y.data() + (n * groups + g) * out * plane_y, out, plane_y);
      if (c.pass == Pass::kGradInput) {
        unfolded.noalias() = weight.transpose() * result;
        for_taps(c, [&](int row, int column, int at) { px[at] += unfolded(row, column); });
      } else {
        unfolded.setZero();
        for_taps(c, [&](int row, int column, int at) { unfolded(row, column) = px[at]; });
        if (c.pass == Pass::kForward) {
          result.noalias() = weight * unfolded;
        } else {
          weight.noalias() += result * unfolded.transpose();
        }
      }
    }
  }
  switch (c.pass) {
    case Pass::kForward:
      return write(c, c.y, c.out, y, c.beta, c.z ? c.z : c.out);
    case Pass::kGradInput:
      return write(c, c.x, c.out, x, c.beta, c.out);
    case Pass::kGradWeight:
      return write(c, c.w, c.out, w, c.beta, c.out);
  }
}

bool consistent(const Convolution& c) {
  const auto size = [&](int i) {
    return (c.x.size[2 + i] + 2 * c.spec.pad[i] - c.spec.dilation[i] * (c.w.size[2 + i] - 1) - 1) /
               c.spec.stride[i] +
           1;
  };
  return c.spec.mode == CUDNN_CROSS_CORRELATION && c.x.type == c.w.type && c.x.type == c.y.type &&
         c.x.size[0] == c.y.size[0] && c.x.size[1] == c.w.size[1] * c.spec.groups &&
         c.w.size[0] == c.y.size[1] && c.w.size[0] % c.spec.groups == 0 && c.y.size[2] == size(0) &&
         c.y.size[3] == size(1) && c.x.nhwc == c.w.nhwc;
}

// Some, so that programs have to provide it; not what the real one asks for.
size_t workspace_for(const Image& x) { return 512 + static_cast<size_t>(x.size[1]) * 64; }

cudnnStatus_t run(cudnnHandle_t h, Convolution c, void* workspace, size_t bytes) {
  const Lock lock(machine());
  if (!h) return CUDNN_STATUS_NOT_INITIALIZED;
  if (h->device != current_device()) die(std::string(c.call) + ": a handle of another device");
  if (!consistent(c) || bytes < workspace_for(c.x)) return CUDNN_STATUS_BAD_PARAM;
  c.device = h->device;
  const cudaError_t error = enqueue_call(h->stream, c.call, workspace, bytes, [c] { convolve(c); });
  return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}

Convolution convolution(const char* call, Pass pass, const void* alpha, const void* beta,
                        const cudnnTensorStruct* x, const cudnnTensorStruct* y,
                        const cudnnTensorStruct* w, cudnnConvolutionDescriptor_t spec) {
  Convolution c;
  c.call = call;
  c.pass = pass;
  c.alpha = *static_cast<const float*>(alpha);
  c.beta = *static_cast<const float*>(beta);
  c.x = *x;
  c.y = *y;
  c.w = *w;
  c.spec = *spec;
  return c;
}

// Two answers: the first is what is asked for, the second (atomics on a real one) is not.
template <typename Perf, typename Algorithm>
cudnnStatus_t two_algorithms(const Image& x, const cudnnConvolutionStruct& spec, int wanted,
                             int* count, Perf* results, Algorithm first, Algorithm second) {
  *count = std::min(wanted, 2);
  for (int i = 0; i < *count; ++i) {
    results[i] = {};
    results[i].algo = i == 0 ? first : second;
    results[i].status = CUDNN_STATUS_SUCCESS;
    results[i].time = -1;
    results[i].memory = workspace_for(x);
    results[i].determinism = i == 0 ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
    results[i].mathType = spec.math;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t describe(cudnnTensorStruct* d, cudnnTensorFormat_t format, cudnnDataType_t type,
                       int n, int c, int h, int w) {
  if (format != CUDNN_TENSOR_NHWC && format != CUDNN_TENSOR_NCHW) {
    die("cuDNN tensor format " + std::to_string(format) + " is not emulated");
  }
  if (n < 1 || c < 1 || h < 1 || w < 1) return CUDNN_STATUS_BAD_PARAM;
  cuda_type(type);
  d->type = type;
  d->nhwc = format == CUDNN_TENSOR_NHWC;
  const int size[] = {n, c, h, w};
  std::copy(size, size + 4, d->size);
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace
}  // namespace ens::emulator

using namespace ens::emulator;

size_t cudnnGetVersion() { return CUDNN_VERSION; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
      return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED:
      return "CUDNN_STATUS_EXECUTION_FAILED";
    default:
      return "another cuDNN status";
  }
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

#define ENS_DESCRIPTOR(Name, Struct)                    \
  cudnnStatus_t cudnnCreate##Name(cudnn##Name##_t* d) { \
    *d = new Struct;                                    \
    return CUDNN_STATUS_SUCCESS;                        \
  }                                                     \
  cudnnStatus_t cudnnDestroy##Name(cudnn##Name##_t d) { \
    delete d;                                           \
    return CUDNN_STATUS_SUCCESS;                        \
  }
ENS_DESCRIPTOR(TensorDescriptor, cudnnTensorStruct)
ENS_DESCRIPTOR(FilterDescriptor, cudnnFilterStruct)
ENS_DESCRIPTOR(ConvolutionDescriptor, cudnnConvolutionStruct)
ENS_DESCRIPTOR(ActivationDescriptor, cudnnActivationStruct)
#undef ENS_DESCRIPTOR

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
  return describe(d, format, type, n, c, h, w);
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
  return describe(d, format, type, k, c, h, w);
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int pad_h, int pad_w,
                                              int stride_h, int stride_w, int dilation_h,
                                              int dilation_w, cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute) {
  if (compute != CUDNN_DATA_FLOAT) die("cuDNN convolutions are emulated in float32 only");
  *d = {
      {pad_h, pad_w}, {stride_h, stride_w}, {dilation_h, dilation_w}, 1, CUDNN_DEFAULT_MATH, mode};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int groups) {
  d->groups = groups;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
  d->math = math;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetActivationDescriptor(cudnnActivationDescriptor_t d,
                                           cudnnActivationMode_t mode, cudnnNanPropagation_t,
                                           double) {
  if (mode != CUDNN_ACTIVATION_IDENTITY && mode != CUDNN_ACTIVATION_RELU) {
    die("cuDNN activation " + std::to_string(mode) + " is not emulated");
  }
  d->mode = mode;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t,
                                                      const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t,
                                                      const cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t, size_t* bytes) {
  *bytes = workspace_for(*x);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                     const cudnnFilterDescriptor_t,
                                                     const cudnnConvolutionDescriptor_t spec,
                                                     const cudnnTensorDescriptor_t,
                                                     const int wanted, int* count,
                                                     cudnnConvolutionFwdAlgoPerf_t* results) {
  return two_algorithms(*x, *spec, wanted, count, results,
                        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t spec, const cudnnTensorDescriptor_t dx, const int wanted,
    int* count, cudnnConvolutionBwdDataAlgoPerf_t* results) {
  return two_algorithms(*dx, *spec, wanted, count, results, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                        CUDNN_CONVOLUTION_BWD_DATA_ALGO_0);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    cudnnHandle_t, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t spec, const cudnnFilterDescriptor_t, const int wanted,
    int* count, cudnnConvolutionBwdFilterAlgoPerf_t* results) {
  return two_algorithms(*x, *spec, wanted, count, results, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void* alpha,
                                      const cudnnTensorDescriptor_t x_desc, const void* x,
                                      const cudnnFilterDescriptor_t w_desc, const void* w,
                                      const cudnnConvolutionDescriptor_t spec,
                                      cudnnConvolutionFwdAlgo_t, void* workspace, size_t bytes,
                                      const void* beta, const cudnnTensorDescriptor_t y_desc,
                                      void* y) {
  Convolution c = convolution("cudnnConvolutionForward", Pass::kForward, alpha, beta, x_desc,
                              y_desc, w_desc, spec);
  c.in_x = x;
  c.in_w = w;
  c.out = y;
  return run(h, c, workspace, bytes);
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void* alpha,
                                           const cudnnFilterDescriptor_t w_desc, const void* w,
                                           const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                           const cudnnConvolutionDescriptor_t spec,
                                           cudnnConvolutionBwdDataAlgo_t, void* workspace,
                                           size_t bytes, const void* beta,
                                           const cudnnTensorDescriptor_t dx_desc, void* dx) {
  Convolution c = convolution("cudnnConvolutionBackwardData", Pass::kGradInput, alpha, beta,
                              dx_desc, dy_desc, w_desc, spec);
  c.in_w = w;
  c.in_y = dy;
  c.out = dx;
  return run(h, c, workspace, bytes);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void* alpha,
                                             const cudnnTensorDescriptor_t x_desc, const void* x,
                                             const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                             const cudnnConvolutionDescriptor_t spec,
                                             cudnnConvolutionBwdFilterAlgo_t, void* workspace,
                                             size_t bytes, const void* beta,
                                             const cudnnFilterDescriptor_t dw_desc, void* dw) {
  Convolution c = convolution("cudnnConvolutionBackwardFilter", Pass::kGradWeight, alpha, beta,
                              x_desc, dy_desc, dw_desc, spec);
  c.in_x = x;
  c.in_y = dy;
  c.out = dw;
  return run(h, c, workspace, bytes);
}
cudnnStatus_t cudnnConvolutionBiasActivationForward(
    cudnnHandle_t h, const void* alpha, const cudnnTensorDescriptor_t x_desc, const void* x,
    const cudnnFilterDescriptor_t w_desc, const void* w, const cudnnConvolutionDescriptor_t spec,
    cudnnConvolutionFwdAlgo_t algorithm, void* workspace, size_t bytes, const void* beta,
    const cudnnTensorDescriptor_t z_desc, const void* z, const cudnnTensorDescriptor_t bias_desc,
    const void* bias, const cudnnActivationDescriptor_t activation,
    const cudnnTensorDescriptor_t y_desc, void* y) {
  Convolution c = convolution("cudnnConvolutionBiasActivationForward", Pass::kForward, alpha, beta,
                              x_desc, y_desc, w_desc, spec);
  if (!(*z_desc == *y_desc) || bias_desc->numel() != y_desc->size[1] ||
      bias_desc->type != y_desc->type) {
    return CUDNN_STATUS_BAD_PARAM;
  }
  c.relu = activation->mode == CUDNN_ACTIVATION_RELU;
  // The one algorithm for which the real one computes without an activation.
  if (!c.relu && algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  c.in_x = x;
  c.in_w = w;
  c.z = z;
  c.bias = bias;
  c.out = y;
  return run(h, c, workspace, bytes);
}
