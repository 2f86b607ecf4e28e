// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/kernels.h"
#include "nn/cuda/serve_kernels.h"

namespace ens::cuda {
namespace {

constexpr int kTile = 32;  // of a transposition

// One thread for each of `numbers`, in the y direction one row of blocks for each net.
dim3 grid_of(int64_t numbers, int64_t nets) {
  return {static_cast<unsigned>((numbers + kThreads - 1) / kThreads), static_cast<unsigned>(nets)};
}
__device__ int64_t this_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Block (kTile, 8) moves a tile of kTile channels x kTile pixels of image blockIdx.z.
template <typename T>
__global__ void pack_input_kernel(const float* x, T* y, int64_t images, int64_t c, int64_t pixels) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t image = blockIdx.z;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t channel = first_channel + i, pixel = first_pixel + threadIdx.x;
    const bool there = image < images && channel < c && pixel < pixels;
    tile[i][threadIdx.x] = there ? x[(image * c + channel) * pixels + pixel] : 0.0f;
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t channel = first_channel + threadIdx.x, pixel = first_pixel + i;
    if (channel < c && pixel < pixels) {
      store(&y[(image * pixels + pixel) * c + channel], tile[threadIdx.x][i]);
    }
  }
}

// The index in x [pixels, c] of element i of [c, pixels], image by image.
__device__ int64_t transposed(int64_t i, int64_t c, int64_t pixels) {
  const int64_t pixel = i % pixels, channel = i / pixels % c, image = i / pixels / c;
  return (image * pixels + pixel) * c + channel;
}

template <typename T>
__global__ void unpack_output_kernel(Each<const T> x, float* y, int64_t numbers, int64_t c,
                                     int64_t pixels) {
  const int64_t i = this_number();
  if (i >= numbers) return;
  y[blockIdx.y * numbers + i] = load(x.of(blockIdx.y)[transposed(i, c, pixels)]);
}

template <typename T>
__global__ void flatten_kernel(Each<const T> x, Each<T> y, int64_t numbers, int64_t c,
                               int64_t pixels) {
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i < numbers) y.of(blockIdx.y)[i] = x.of(blockIdx.y)[transposed(i, c, pixels)];
}

template <typename T>
__global__ void affine_kernel(Each<const T> x, Each<const float> scale, Each<const float> shift,
                              Each<T> y, int64_t numbers, int64_t c, bool relu) {
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i >= numbers) return;
  const int64_t net = blockIdx.y, channel = i % c;
  const float v = load(x.of(net)[i]) * scale.of(net)[channel] + shift.of(net)[channel];
  store(&y.of(net)[i], relu ? fmaxf(v, 0.0f) : v);
}

__device__ float apply(UnaryOp op, float x, float a, float b) {
  switch (op) {
    case UnaryOp::kAffine:
      return a * x + b;
    case UnaryOp::kRelu:
      return fmaxf(x, 0.0f);
    case UnaryOp::kLeakyRelu:
      return x > 0 ? x : a * x;
    case UnaryOp::kSigmoid:
      return 1.0f / (1.0f + expf(-x));
    case UnaryOp::kTanh:
      return tanhf(x);
    case UnaryOp::kExp:
      return expf(x);
    case UnaryOp::kLog:
      return logf(x);
    case UnaryOp::kSqrt:
      return sqrtf(x);
    case UnaryOp::kSquare:
      return x * x;
    case UnaryOp::kAbs:
      return fabsf(x);
    case UnaryOp::kGelu:
      return x * 0.5f * erfcf(-0.70710678f * x);
  }
  return x;
}

template <typename T>
__global__ void activate_kernel(UnaryOp op, float a, float b, Each<const T> x, Each<T> y,
                                int64_t numbers) {
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i < numbers) {
    store(&y.of(blockIdx.y)[i], apply(op, load(x.of(blockIdx.y)[i]), a, b));
  }
}

template <typename T>
__global__ void add_kernel(Each<const T> x, Each<const T> z, Each<T> y, int64_t numbers,
                           bool relu) {
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i >= numbers) return;
  const float v = load(x.of(blockIdx.y)[i]) + load(z.of(blockIdx.y)[i]);
  store(&y.of(blockIdx.y)[i], relu ? fmaxf(v, 0.0f) : v);
}

template <typename T>
__global__ void pool_kernel(bool maximum, PoolShape s, Each<const T> x, Each<T> y,
                            int64_t numbers) {
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i >= numbers) return;
  const int64_t channel = i % s.c, column = i / s.c % s.ow, row = i / s.c / s.ow % s.oh;
  const T* image = x.of(blockIdx.y) + i / s.c / s.ow / s.oh * s.h * s.w * s.c;
  float largest = -INFINITY, sum = 0.0f;
  int count = 0;
  for (int u = 0; u < s.kh; ++u) {
    const int64_t r = row * s.stride - s.padding + u;
    if (r < 0 || r >= s.h) continue;
    for (int v = 0; v < s.kw; ++v) {
      const int64_t q = column * s.stride - s.padding + v;
      if (q < 0 || q >= s.w) continue;
      const float value = load(image[(r * s.w + q) * s.c + channel]);
      largest = fmaxf(largest, value);
      sum += value;
      ++count;
    }
  }
  store(&y.of(blockIdx.y)[i], maximum ? largest : sum / static_cast<float>(count));
}

// What a convolution kernel needs to know to find its input.
struct Window {
  int64_t c, h, w, oh, ow, kw;
  int stride, padding, dilation;
  // Offset of the input pixel that kernel position (u, v) of output pixel `row` meets, or -1.
  __device__ int64_t pixel(int64_t row, int64_t u, int64_t v) const {
    const int64_t r = row / ow % oh * stride - padding + u * dilation;
    const int64_t q = row % ow * stride - padding + v * dilation;
    if (r < 0 || r >= h || q < 0 || q >= w) return -1;
    return ((row / ow / oh * h + r) * w + q) * c;
  }
};
Window window_of(const NetConv& conv) {
  return {conv.c,
          conv.h,
          conv.w,
          conv.oh,
          conv.ow,
          conv.kw,
          conv.spec.stride,
          conv.spec.padding,
          conv.spec.dilation};
}

// V: as many channels as one thread moves at once.
template <typename V>
__global__ void gather_kernel(Window win, Each<const V> x, Each<V> rows, int64_t numbers,
                              int64_t depth, int64_t lanes) {
  const int64_t i = this_number();
  if (i >= numbers) return;
  const int64_t k = i % depth, channels = win.c / lanes, tap = k / channels;
  const int64_t at = win.pixel(i / depth, tap / win.kw, tap % win.kw);
  rows.of(blockIdx.y)[i] = at < 0 ? V{} : x.of(blockIdx.y)[at / lanes + k % channels];
}

template <typename T>
__global__ void spread_kernel(Window win, int64_t o, int64_t kh, Each<const T> weight,
                              Each<T> matrix, int64_t numbers) {
  const int64_t i = this_number();
  if (i >= numbers) return;
  const int64_t in = win.h * win.w * win.c;
  const int64_t channel = i % win.c, p = i % in / win.c, out = i / in % o, q = i / in / o;
  // The kernel position that takes input pixel p to output pixel q.
  const int64_t u = p / win.w - (q / win.ow * win.stride - win.padding);
  const int64_t v = p % win.w - (q % win.ow * win.stride - win.padding);
  const int64_t du = u / win.dilation, dv = v / win.dilation;
  const bool meets =
      u >= 0 && v >= 0 && u % win.dilation == 0 && v % win.dilation == 0 && du < kh && dv < win.kw;
  T* const place = matrix.of(blockIdx.y) + i;
  if (meets) {
    *place = weight.of(blockIdx.y)[((out * kh + du) * win.kw + dv) * win.c + channel];
  } else {
    store(place, 0.0f);
  }
}

template <typename T>
__global__ void repeat_kernel(Each<const T> bias, Each<T> all, int64_t numbers, int64_t o) {
  const int64_t i = this_number();
  if (i < numbers) all.of(blockIdx.y)[i] = bias.of(blockIdx.y)[i % o];
}

template <typename T>
__global__ void round_kernel(const T* x, const float* factor, Fp8* y, int64_t numbers) {
  const int64_t i = this_number();
  if (i < numbers) store(&y[i], load(x[i]) * *factor);
}

// W: T, or Fp8 for a convolution in float8.
template <typename T, typename W>
__global__ void conv_direct_kernel(Window win, int64_t o, int64_t kh, int64_t groups, bool relu,
                                   Each<const T> x, Each<const W> weight, Each<const T> bias,
                                   Each<const float> scales, Each<const T> z, Each<T> y,
                                   int64_t numbers) {
  constexpr bool kFloat8 = !std::is_same_v<T, W>;
  grid_dependency_sync();
  const int64_t i = this_number();
  if (i >= numbers) return;
  const int64_t net = blockIdx.y, out = i % o, per_group = win.c / groups;
  const int64_t first = out / (o / groups) * per_group;
  const W* kernel = weight.of(net) + out * kh * win.kw * per_group;
  float sum = 0;
  for (int64_t u = 0; u < kh; ++u) {
    for (int64_t v = 0; v < win.kw; ++v) {
      const int64_t at = win.pixel(i / o, u, v);
      if (at < 0) continue;
      const T* pixel = x.of(net) + at + first;
      const W* tap = kernel + (u * win.kw + v) * per_group;
      for (int64_t k = 0; k < per_group; ++k) {
        float value = load(pixel[k]);
        if constexpr (kFloat8) value = load(Fp8(value * scales.of(net)[o]));
        sum += value * load(tap[k]);
      }
    }
  }
  if constexpr (kFloat8) sum *= scales.of(net)[out];
  sum += load(bias.of(net)[out]);
  if (z.data) sum += load(z.of(net)[i]);
  store(&y.of(net)[i], relu ? fmaxf(sum, 0.0f) : sum);
}

}  // namespace

void pack_input(Dtype dtype, const float* x, void* y, int64_t images, int64_t batch, int64_t c,
                int64_t pixels, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((pixels + kTile - 1) / kTile),
                  static_cast<unsigned>((c + kTile - 1) / kTile), static_cast<unsigned>(batch));
  with_activation(dtype, [&]<typename T>(T) {
    launch(pack_input_kernel<T>, grid, dim3(kTile, 8), 0, stream, x, static_cast<T*>(y), images, c,
           pixels);
  });
}

void unpack_output(Dtype dtype, const NetMemory& x, float* y, int64_t nets, int64_t images,
                   int64_t c, int64_t pixels, cudaStream_t stream) {
  const int64_t numbers = images * c * pixels;
  with_activation(dtype, [&]<typename T>(T) {
    launch(unpack_output_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, stream,
           each<const T>(x), y, numbers, c, pixels);
  });
}

bool kernels_support_pdl() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&pool_kernel<float>)),
        "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;
}

void flatten(Dtype dtype, const NetMemory& x, const NetMemory& y, int64_t nets, int64_t batch,
             int64_t c, int64_t pixels, Launch how) {
  const int64_t numbers = batch * c * pixels;
  with_activation(dtype, [&]<typename T>(T) {
    launch(flatten_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, each<const T>(x),
           each<T>(y), numbers, c, pixels);
  });
}

void affine(Dtype dtype, const NetMemory& x, const NetMemory& scale, const NetMemory& shift,
            const NetMemory& y, int64_t nets, int64_t numbers, int64_t c, bool relu, Launch how) {
  with_activation(dtype, [&]<typename T>(T) {
    launch(affine_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, each<const T>(x),
           each<const float>(scale), each<const float>(shift), each<T>(y), numbers, c, relu);
  });
}

void activate(Dtype dtype, UnaryOp op, float a, float b, const NetMemory& x, const NetMemory& y,
              int64_t nets, int64_t numbers, Launch how) {
  with_activation(dtype, [&]<typename T>(T) {
    launch(activate_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, op, a, b,
           each<const T>(x), each<T>(y), numbers);
  });
}

void add(Dtype dtype, const NetMemory& x, const NetMemory& z, const NetMemory& y, int64_t nets,
         int64_t numbers, bool relu, Launch how) {
  with_activation(dtype, [&]<typename T>(T) {
    launch(add_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, each<const T>(x),
           each<const T>(z), each<T>(y), numbers, relu);
  });
}

void pool(Dtype dtype, bool maximum, const PoolShape& shape, const NetMemory& x, const NetMemory& y,
          int64_t nets, Launch how) {
  const int64_t numbers = shape.batch * shape.oh * shape.ow * shape.c;
  with_activation(dtype, [&]<typename T>(T) {
    launch(pool_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, maximum, shape,
           each<const T>(x), each<T>(y), numbers);
  });
}

void im2col(const NetConv& conv, const NetMemory& rows, int64_t nets, cudaStream_t stream) {
  const auto move = [&]<typename V>(V*) {
    const int64_t lanes = static_cast<int64_t>(sizeof(V) / size_of(conv.dtype));
    const int64_t depth = conv.depth() / lanes, numbers = conv.rows() * depth;
    launch(gather_kernel<V>, grid_of(numbers, nets), dim3(kThreads), 0, stream, window_of(conv),
           each<const V>(conv.x), each<V>(rows), numbers, depth, lanes);
  };
  // 16 bytes a thread where the channels allow it.
  if (conv.c * static_cast<int64_t>(size_of(conv.dtype)) % 16 == 0) {
    move(static_cast<uint4*>(nullptr));
  } else if (conv.dtype == Dtype::kF32) {
    move(static_cast<uint32_t*>(nullptr));
  } else {
    move(static_cast<uint16_t*>(nullptr));
  }
}

void expand_weight(const NetConv& conv, const NetMemory& matrix, const NetMemory& bias,
                   cudaStream_t stream) {
  const int64_t out = conv.oh * conv.ow * conv.o, numbers = out * conv.h * conv.w * conv.c;
  with_activation(conv.dtype, [&]<typename T>(T) {
    launch(spread_kernel<T>, grid_of(numbers, conv.nets), dim3(kThreads), 0, stream,
           window_of(conv), conv.o, conv.kh, each<const T>(conv.weight), each<T>(matrix), numbers);
    launch(repeat_kernel<T>, grid_of(out, conv.nets), dim3(kThreads), 0, stream,
           each<const T>(conv.bias), each<T>(bias), out, conv.o);
  });
}

void round_to_float8(const NetConv& conv, int64_t net, void* rounded, cudaStream_t stream) {
  const int64_t numbers = conv.batch * conv.h * conv.w * conv.c;
  const auto* factor = reinterpret_cast<const float*>(conv.scales.of(net)) + conv.o;
  with_activation(conv.dtype, [&]<typename T>(T) {
    launch(round_kernel<T>, grid_of(numbers, 1), dim3(kThreads), 0, stream,
           reinterpret_cast<const T*>(conv.x.of(net)), factor, static_cast<Fp8*>(rounded), numbers);
  });
}

void conv_naive(const NetConv& conv, Launch how) {
  const int64_t numbers = conv.rows() * conv.o;
  const auto run = [&]<typename T, typename W>(T, W) {
    launch(conv_direct_kernel<T, W>, grid_of(numbers, conv.nets), dim3(kThreads), 0, how,
           window_of(conv), conv.o, conv.kh, conv.spec.groups, conv.relu, each<const T>(conv.x),
           each<const W>(conv.weight), each<const T>(conv.bias), each<const float>(conv.scales),
           each<const T>(conv.z), each<T>(conv.y), numbers);
  };
  with_activation(conv.dtype, [&]<typename T>(T t) {
    if (conv.float8) {
      run(t, Fp8{});
    } else {
      run(t, t);
    }
  });
}

}  // namespace ens::cuda
