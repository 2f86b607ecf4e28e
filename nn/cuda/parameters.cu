// SPDX-License-Identifier: Apache-2.0
// Work on all parameters of a net at once: optimiser steps, and weights as convolutions want them.
//
// Parameters and what an optimiser remembers of them are plain. Weights for convolutions, and their
// gradients as the library leaves them, are channels-last and mostly of 16 bits: the kernels find
// each element where the layout puts it, which spares a launch and a copy for every layer.
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

// Block k works on kPiece elements of the tensor whose blocks it is among.
constexpr int kTensors = 64;
constexpr int kPiece = 16 * kThreads;

template <typename Slot>
struct Slots {
  int count = 0;
  unsigned first_block[kTensors + 1] = {};
  Slot slot[kTensors];
};

// Sizes within which Divisor and 32 bits do for a layout's arithmetic.
constexpr int64_t kMostChannels = 32768, kMostPixels = 8192;
constexpr int64_t kMostNumbers = std::numeric_limits<int32_t>::max() - kPiece;

// The axes that plain and channels-last memory exchange; pixels 1: the same memory in both.
struct Axes {
  int32_t channels = 1, pixels = 1;
};
Axes axes_of(const Shape& s) {
  if (layouts_coincide(s)) return {};
  return {static_cast<int32_t>(s[1]), static_cast<int32_t>(s[2] * s[3])};
}
bool can_exchange(const Shape& s) {
  return s.numel() <= kMostNumbers &&
         (s.rank() != 4 || (s[1] <= kMostChannels && s[2] * s[3] <= kMostPixels));
}

struct UpdateSlot {
  float* param;
  const void* grad;  // channels-last if axes say so
  float* first;      // may be null (no momentum)
  float* second;     // Adam's
  float* top;        // null without AMSGrad
  int32_t size;
  int32_t channels;
  int16_t pixels;
  uint8_t dtype;  // of the gradient
};
static_assert(kMostPixels <= std::numeric_limits<int16_t>::max());
static_assert(sizeof(Slots<UpdateSlot>) < 3900);  // kernel arguments

struct WeightSlot {
  const float* from;
  void* to;  // channels-last
  int32_t size;
  Axes axes;
};
static_assert(sizeof(Slots<WeightSlot>) < 3900);

// The slot of this block, and its elements [begin, end).
template <typename Slot>
__device__ inline const Slot& find_slot(const Slots<Slot>& s, int* begin, int* end) {
  int low = 0, high = s.count;  // first_block[low] <= blockIdx.x < first_block[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (s.first_block[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const Slot& slot = s.slot[low];
  *begin = static_cast<int>(blockIdx.x - s.first_block[low]) * kPiece;
  *end = slot.size - *begin < kPiece ? slot.size : *begin + kPiece;
  return slot;
}

// Where memory of [outer][rows][columns] has what memory of [outer][columns][rows] has at i, for
// the i of one block, of which begin is the first.
class Exchange {
 public:
  __device__ Exchange(int rows, int columns, int begin)
      : rows_(rows), columns_(columns), begin_(begin), by_rows_(rows), by_columns_(columns) {
    line_ = begin / rows;
    row_ = begin - line_ * rows;
    column_ = line_ % columns;
  }
  __device__ int operator()(int i) const {
    const int further = row_ + i - begin_;
    const int lines = by_rows_.quotient(further), row = further - lines * rows_;
    const int over = column_ + lines;
    const int column = over - by_columns_.quotient(over) * columns_;
    return (line_ + lines - column) * rows_ + row * columns_ + column;
  }

 private:
  int rows_, columns_, begin_;
  Divisor by_rows_, by_columns_;
  int line_, row_, column_;  // of begin: [outer * columns][rows]
};

// A block's part of a gradient, in the parameter's order.
class Gradient {
 public:
  __device__ Gradient(const UpdateSlot& s, int begin)
      : s_(s), exchange_(s.pixels, s.channels, begin) {}
  __device__ float at(int i) const {
    const int j = s_.pixels == 1 ? i : exchange_(i);
    switch (static_cast<Dtype>(s_.dtype)) {
      case Dtype::kBF16:
        return load(static_cast<const __nv_bfloat16*>(s_.grad)[j]);
      case Dtype::kF16:
        return load(static_cast<const __half*>(s_.grad)[j]);
      default:
        return static_cast<const float*>(s_.grad)[j];
    }
  }

 private:
  const UpdateSlot& s_;
  Exchange exchange_;
};

// f(k, i) for kAtOnce of a thread's elements from i on, where they are before `end`. All are read
// before the first is written: what is written might be what is read next, for all the compiler
// knows, and it would wait each time.
constexpr int kAtOnce = 4;
template <typename F>
__device__ inline void for_numbers(int first, int end, F&& f) {
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const int i = first + k * kThreads;
    if (i < end) f(k, i);
  }
}

__global__ void sgd_kernel(Slots<UpdateSlot> slots, const float* rates, SgdStep s) {
  int begin, end;
  const UpdateSlot& t = find_slot(slots, &begin, &end);
  const Gradient grad(t, begin);
  const float lr = rates[0];
  const float g_part = s.nesterov ? 1.0f : 0.0f, m_part = s.nesterov ? s.momentum : 1.0f;
  for (int at = begin + static_cast<int>(threadIdx.x); at < end; at += kAtOnce * kThreads) {
    float p[kAtOnce] = {}, g[kAtOnce] = {}, m[kAtOnce] = {};
    for_numbers(at, end, [&](int k, int i) {
      p[k] = t.param[i];
      g[k] = grad.at(i);
      if (t.first) m[k] = t.first[i];
    });
    for_numbers(at, end, [&](int k, int i) {
      const float d = g[k] + s.weight_decay * p[k];
      if (t.first) {
        const float v = s.momentum * m[k] + d;
        t.first[i] = v;
        t.param[i] = p[k] - lr * (g_part * d + m_part * v);
      } else {
        t.param[i] = p[k] - lr * d;
      }
    });
  }
}

__global__ void adam_kernel(Slots<UpdateSlot> slots, const float* rates, AdamStep s) {
  int begin, end;
  const UpdateSlot& t = find_slot(slots, &begin, &end);
  const Gradient grad(t, begin);
  const float lr = rates[0], step_size = lr * rates[1], root = rates[2];
  const float keep = s.decoupled ? 1.0f - lr * s.weight_decay : 1.0f;
  const float l2 = s.decoupled ? 0.0f : s.weight_decay;
  for (int at = begin + static_cast<int>(threadIdx.x); at < end; at += kAtOnce * kThreads) {
    float p[kAtOnce] = {}, g[kAtOnce] = {}, mean[kAtOnce] = {}, square[kAtOnce] = {},
          top[kAtOnce] = {};
    for_numbers(at, end, [&](int k, int i) {
      p[k] = t.param[i];
      g[k] = grad.at(i);
      mean[k] = t.first[i];
      square[k] = t.second[i];
      if (t.top) top[k] = t.top[i];
    });
    for_numbers(at, end, [&](int k, int i) {
      const float d = g[k] + l2 * p[k];
      const float m = s.beta1 * mean[k] + (1.0f - s.beta1) * d;
      float v = s.beta2 * square[k] + (1.0f - s.beta2) * d * d;
      t.first[i] = m;
      t.second[i] = v;
      if (t.top) t.top[i] = v = fmaxf(top[k], v);
      t.param[i] = keep * p[k] - step_size * m / (sqrtf(v) * root + s.eps);
    });
  }
}

template <typename T>
__global__ void weights_kernel(Slots<WeightSlot> slots) {
  int begin, end;
  const WeightSlot& t = find_slot(slots, &begin, &end);
  const Exchange exchange(t.axes.channels, t.axes.pixels, begin);
  for (int at = begin + static_cast<int>(threadIdx.x); at < end; at += kAtOnce * kThreads) {
    float w[kAtOnce] = {};
    for_numbers(at, end,
                [&](int k, int i) { w[k] = t.from[t.axes.pixels == 1 ? i : exchange(i)]; });
    for_numbers(at, end, [&](int k, int i) { store(static_cast<T*>(t.to) + i, w[k]); });
  }
}

// Calls run(slots, blocks) for kTensors of `all` at a time.
template <typename Slot, typename F>
void for_slots(const std::vector<Slot>& all, F&& run) {
  Slots<Slot> slots;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto blocks = static_cast<unsigned>((int64_t{all[i].size} + kPiece - 1) / kPiece);
    slots.slot[slots.count] = all[i];
    slots.first_block[slots.count + 1] = slots.first_block[slots.count] + blocks;
    if (++slots.count < kTensors && i + 1 < all.size()) continue;
    run(slots, dim3(slots.first_block[slots.count]));
    slots.count = 0;
  }
}

template <typename F>
void for_updates(Context& c, std::span<const Update> updates, F&& run) {
  const auto optional = [&](const Tensor& t) { return t.defined() ? write<float>(c, t) : nullptr; };
  std::vector<UpdateSlot> all;
  std::vector<Tensor> held;
  for (const Update& u : updates) {
    if (u.param.numel() == 0) continue;
    Tensor grad = u.grad;
    const bool of_16_bits = grad.dtype() == Dtype::kBF16 || grad.dtype() == Dtype::kF16;
    const bool last = grad.layout() == Layout::kChannelsLast;
    if (u.param.numel() > kMostNumbers) fail("a parameter of more than 2^31 numbers", "CUDA");
    if ((!of_16_bits && grad.dtype() != Dtype::kF32) ||
        (!last && grad.layout() != Layout::kPlain) || !can_exchange(grad.shape())) {
      grad = held.emplace_back(as(grad, Dtype::kF32, Layout::kPlain));
    }
    const Axes axes = grad.layout() == Layout::kChannelsLast ? axes_of(grad.shape()) : Axes{};
    all.push_back({write<float>(c, u.param), read_raw(c, grad), optional(u.first),
                   optional(u.second), optional(u.max_second),
                   static_cast<int32_t>(u.param.numel()), axes.channels,
                   static_cast<int16_t>(axes.pixels), static_cast<uint8_t>(grad.dtype())});
  }
  for_slots(all, run);
}

}  // namespace

void CudaBackend::sgd_step(std::span<const Update> updates, const Tensor& rates, const SgdStep& s) {
  Context& c = context(device_);
  const float* rate = read<float>(c, rates);
  for_updates(c, updates, [&](const Slots<UpdateSlot>& slots, dim3 blocks) {
    launch(sgd_kernel, blocks, kThreads, 0, c.stream, slots, rate, s);
  });
}

void CudaBackend::adam_step(std::span<const Update> updates, const Tensor& rates,
                            const AdamStep& s) {
  Context& c = context(device_);
  const float* rate = read<float>(c, rates);
  for_updates(c, updates, [&](const Slots<UpdateSlot>& slots, dim3 blocks) {
    launch(adam_kernel, blocks, kThreads, 0, c.stream, slots, rate, s);
  });
}

void CudaBackend::prepare_conv_weights(std::span<const Tensor> from, std::span<Tensor> to) {
  Context& c = context(device_);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    with_activation(dtype, [&]<typename T>(T) {
      std::vector<WeightSlot> all;
      for (size_t i = 0; i < from.size(); ++i) {
        const bool other = to[i].dtype() != dtype || to[i].raw() == from[i].raw();
        if (other || from[i].numel() == 0) continue;
        if (!can_exchange(from[i].shape())) {
          to[i].copy_from(from[i]);
          continue;
        }
        all.push_back({read<float>(c, from[i]), write_raw(c, to[i]),
                       static_cast<int32_t>(from[i].numel()), axes_of(from[i].shape())});
      }
      for_slots(all, [&](const Slots<WeightSlot>& slots, dim3 blocks) {
        launch(weights_kernel<T>, blocks, kThreads, 0, c.stream, slots);
      });
    });
  }
}

}  // namespace ens::cuda
