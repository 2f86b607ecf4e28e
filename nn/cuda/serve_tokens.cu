// SPDX-License-Identifier: Apache-2.0
// The steps of transformers in the serving executable. A token is a row of channels.
#include "nn/cuda/kernels.h"
#include "nn/cuda/serve_kernels.h"

namespace ens::cuda {
namespace {

// A warp for each row; in the y direction one row of blocks for each net.
constexpr int kRows = kThreads / 32;
const dim3 kWarps(32, kRows);
dim3 grid_of_rows(int64_t rows, int64_t nets) {
  return {static_cast<unsigned>((rows + kRows - 1) / kRows), static_cast<unsigned>(nets)};
}
dim3 grid_of(int64_t numbers, int64_t nets) {
  return {static_cast<unsigned>((numbers + kThreads - 1) / kThreads), static_cast<unsigned>(nets)};
}

template <typename T>
__global__ void tokens_kernel(Each<const T> x, Each<const float> first, Each<const float> positions,
                              Each<T> y, int64_t numbers, int64_t tokens, int64_t width) {
  grid_dependency_sync();
  const int64_t i = thread_index();
  if (i >= numbers) return;
  const int64_t net = blockIdx.y, d = i % width, t = i / width % tokens, b = i / width / tokens;
  const float v =
      t == 0 ? first.of(net)[d] : load(x.of(net)[(b * (tokens - 1) + t - 1) * width + d]);
  store(&y.of(net)[i], v + positions.of(net)[t * width + d]);
}

template <typename T>
__global__ void first_token_kernel(Each<const T> x, Each<T> y, int64_t numbers, int64_t tokens,
                                   int64_t width) {
  grid_dependency_sync();
  const int64_t i = thread_index();
  if (i < numbers) y.of(blockIdx.y)[i] = x.of(blockIdx.y)[i / width * tokens * width + i % width];
}

template <typename T>
__global__ void norm_kernel(Each<const T> x, Each<const float> gamma, Each<const float> beta,
                            Each<T> y, int64_t rows, int64_t width, float eps) {
  grid_dependency_sync();
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y, net = blockIdx.y;
  if (r >= rows) return;  // whole warps
  const T* from = x.of(net) + r * width;
  float sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < width; i += 32) sum += load(from[i]);
  const float mean = warp_sum(sum) / static_cast<float>(width);
  for (int64_t i = threadIdx.x; i < width; i += 32) {
    const float d = load(from[i]) - mean;
    squares += d * d;
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += 32) {
    store(&y.of(net)[r * width + i],
          (load(from[i]) - mean) * scale * gamma.of(net)[i] + beta.of(net)[i]);
  }
}

// A warp for each query of each head: its weights over all tokens lie in shared memory.
template <typename T>
__global__ void attention_kernel(Each<const T> qkv, Each<T> y, int64_t tokens, int64_t tiles,
                                 int heads, int64_t width) {
  grid_dependency_sync();
  float* weights = reinterpret_cast<float*>(dynamic_shared()) + threadIdx.y * tokens;
  const int64_t query = blockIdx.x % tiles * kRows + threadIdx.y, head = blockIdx.x / tiles % heads;
  const int64_t image = blockIdx.x / tiles / heads, net = blockIdx.y, each_head = width / heads;
  if (query >= tokens) return;  // whole warps
  const T* rows = qkv.of(net) + image * tokens * 3 * width + head * each_head;
  const T* q = rows + query * 3 * width;
  const float scale = 1.0f / sqrtf(static_cast<float>(each_head));
  float top = -INFINITY, sum = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += 32) {
    const T* k = rows + t * 3 * width + width;
    float dot = 0;
    for (int64_t d = 0; d < each_head; ++d) dot += load(q[d]) * load(k[d]);
    weights[t] = dot * scale;
    top = fmaxf(top, weights[t]);
  }
  top = warp_max(top);
  for (int64_t t = threadIdx.x; t < tokens; t += 32) {
    weights[t] = expf(weights[t] - top);
    sum += weights[t];
  }
  const float inverse = 1.0f / warp_sum(sum);
  __syncwarp();
  for (int64_t d = threadIdx.x; d < each_head; d += 32) {
    float total = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      total += weights[t] * load(rows[t * 3 * width + 2 * width + d]);
    }
    store(&y.of(net)[(image * tokens + query) * width + head * each_head + d], total * inverse);
  }
}

}  // namespace

void place_tokens(Dtype dtype, const NetMemory& x, const NetMemory& first,
                  const NetMemory& positions, const NetMemory& y, int64_t nets, int64_t batch,
                  int64_t tokens, int64_t width, Launch how) {
  const int64_t numbers = batch * tokens * width;
  with_activation(dtype, [&]<typename T>(T) {
    launch(tokens_kernel<T>, grid_of(numbers, nets), dim3(kThreads), 0, how, each<const T>(x),
           each<const float>(first), each<const float>(positions), each<T>(y), numbers, tokens,
           width);
  });
}

void first_token(Dtype dtype, const NetMemory& x, const NetMemory& y, int64_t nets, int64_t batch,
                 int64_t tokens, int64_t width, Launch how) {
  with_activation(dtype, [&]<typename T>(T) {
    launch(first_token_kernel<T>, grid_of(batch * width, nets), dim3(kThreads), 0, how,
           each<const T>(x), each<T>(y), batch * width, tokens, width);
  });
}

void layer_norm(Dtype dtype, const NetMemory& x, const NetMemory& gamma, const NetMemory& beta,
                const NetMemory& y, int64_t nets, int64_t rows, int64_t width, float eps,
                Launch how) {
  with_activation(dtype, [&]<typename T>(T) {
    launch(norm_kernel<T>, grid_of_rows(rows, nets), kWarps, 0, how, each<const T>(x),
           each<const float>(gamma), each<const float>(beta), each<T>(y), rows, width, eps);
  });
}

void attention(Dtype dtype, const NetMemory& qkv, const NetMemory& y, int64_t nets, int64_t batch,
               int64_t tokens, int heads, int64_t width, Launch how) {
  const int64_t tiles = (tokens + kRows - 1) / kRows;
  const dim3 grid(static_cast<unsigned>(tiles * batch * heads), static_cast<unsigned>(nets));
  const size_t shared = static_cast<size_t>(tokens) * kRows * sizeof(float);
  with_activation(dtype, [&]<typename T>(T) {
    launch(attention_kernel<T>, grid, kWarps, shared, how, each<const T>(qkv), each<T>(y), tokens,
           tiles, heads, width);
  });
}

}  // namespace ens::cuda
