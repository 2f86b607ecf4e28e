// SPDX-License-Identifier: Apache-2.0
// Tensor: a handle to a dense block of elements on one device.
//
// Copying a Tensor copies the handle; clone() copies the elements. Handles may be passed between
// threads; concurrent reads are safe, a write needs exclusive use.
//
// Layout: logically every tensor is indexed outermost first (NCHW for images). Backends may store
// 4-D tensors in another physical order; `layout()` says which. Only kPlain tensors may be indexed
// through data(), reshaped or viewed other than along axis 0: call plain() first. Blocked layouts
// exist only where C is a multiple of the block, so no layout ever has padding: numel() elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "nn/core/device.h"
#include "nn/core/dtype.h"
#include "nn/core/shape.h"

namespace ens {

enum class Layout : uint8_t {
  kPlain,         // NCHW for 4-D, row-major for any rank
  kChannelsLast,  // NHWC
  kBlocked8,      // N, C/8, H, W, 8
  kBlocked16,     // N, C/16, H, W, 16
};

const char* name(Layout layout);

class Tensor {
 public:
  Tensor() = default;  // no storage: defined() is false

  // Uninitialised memory from the device's cache.
  static Tensor empty(const Shape& shape, Dtype dtype = Dtype::kF32, Device device = {},
                      Layout layout = Layout::kPlain);
  static Tensor empty_like(const Tensor& other);  // same shape, dtype, device, layout
  static Tensor zeros(const Shape& shape, Dtype dtype = Dtype::kF32, Device device = {});
  static Tensor full(const Shape& shape, float value, Dtype dtype = Dtype::kF32,
                     Device device = {});
  // CPU tensors from values, in row-major order.
  static Tensor from(std::span<const float> values, const Shape& shape);
  static Tensor from(std::initializer_list<float> values, const Shape& shape);
  static Tensor from_labels(std::span<const int32_t> values);

  // A tensor over memory of somebody else's, kept alive by `owner`; CPU, plain. Zero copy.
  static Tensor wrap(void* data, const Shape& shape, Dtype dtype, std::shared_ptr<void> owner);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  int64_t numel() const { return shape_.numel(); }
  Dtype dtype() const { return dtype_; }
  Layout layout() const { return layout_; }
  Device device() const { return device_; }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }

  // The memory that this tensor or view lies in; for backends.
  const std::shared_ptr<void>& storage() const { return storage_; }
  void* raw() const { return static_cast<std::byte*>(storage_.get()) + offset_; }
  void* host() const {  // the same, where the CPU reads or writes it; Error on any other device
    check_host();
    return raw();
  }
  // Typed pointer; Error if T is not the dtype. The memory order is that of layout().
  template <typename T>
  T* data() const {
    check_dtype(dtype_of<T>());
    return static_cast<T*>(host());
  }
  // All elements of a CPU tensor, in memory order.
  template <typename T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(numel())};
  }
  float item() const;                    // the value of a one-element tensor, as float
  std::vector<float> to_vector() const;  // all values, row-major, as float, from any device

  // Views: no copy. reshape needs kPlain.
  Tensor reshape(const Shape& shape) const;
  Tensor rows(int64_t start, int64_t count) const;  // [start, start+count) along axis 0, any layout

  // Copies. to/with_layout return *this unchanged when nothing has to be done.
  Tensor clone() const;
  Tensor to(Dtype dtype) const;
  Tensor to(Device device) const;
  Tensor with_layout(Layout layout) const;
  Tensor plain() const { return with_layout(Layout::kPlain); }
  void copy_from(const Tensor& source);  // same shape; converts dtype, layout and device
  void fill(float value);

 private:
  void check_dtype(Dtype wanted) const;
  void check_host() const;

  std::shared_ptr<void> storage_;
  size_t offset_ = 0;  // bytes
  Shape shape_;
  Dtype dtype_ = Dtype::kF32;
  Layout layout_ = Layout::kPlain;
  Device device_;
};

// For tests: where empty() gets its memory from; empty: from the backend. To be set while no other
// thread makes tensors.
using TensorAllocator = std::function<std::shared_ptr<void>(Device device, size_t bytes)>;
void set_tensor_allocator(TensorAllocator allocator);

}  // namespace ens
