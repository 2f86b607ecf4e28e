// SPDX-License-Identifier: Apache-2.0
#include "nn/core/tensor.h"

#include <cstring>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {

const char* name(Layout layout) {
  constexpr const char* kNames[] = {"plain", "channels-last", "blocked8", "blocked16"};
  return kNames[static_cast<size_t>(layout)];
}

namespace {
TensorAllocator& test_allocator() {
  static TensorAllocator* allocator = new TensorAllocator;  // tensors may outlive main()
  return *allocator;
}
}  // namespace

void set_tensor_allocator(TensorAllocator allocator) { test_allocator() = std::move(allocator); }

Tensor Tensor::empty(const Shape& shape, Dtype dtype, Device device, Layout layout) {
  if (layout != Layout::kPlain) {
    const int64_t block = layout == Layout::kBlocked8 ? 8 : layout == Layout::kBlocked16 ? 16 : 1;
    if (shape.rank() != 4 || shape[1] % block != 0) {
      fail(std::string("layout ") + name(layout) + " does not fit shape " + shape.str());
    }
  }
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.device_ = device;
  t.layout_ = layout;
  const size_t bytes = std::max<size_t>(t.bytes(), 1);
  t.storage_ = test_allocator() ? test_allocator()(device, bytes) : backend(device).allocate(bytes);
  return t;
}

Tensor Tensor::empty_like(const Tensor& other) {
  return empty(other.shape_, other.dtype_, other.device_, other.layout_);
}

Tensor Tensor::zeros(const Shape& shape, Dtype dtype, Device device) {
  return full(shape, 0.0f, dtype, device);
}

Tensor Tensor::full(const Shape& shape, float value, Dtype dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

Tensor Tensor::from(std::span<const float> values, const Shape& shape) {
  if (static_cast<int64_t>(values.size()) != shape.numel()) {
    fail(std::to_string(values.size()) + " values do not fill shape " + shape.str());
  }
  Tensor t = empty(shape);
  std::memcpy(t.host(), values.data(), t.bytes());
  return t;
}

Tensor Tensor::from(std::initializer_list<float> values, const Shape& shape) {
  return from(std::span<const float>(values.begin(), values.size()), shape);
}

Tensor Tensor::from_labels(std::span<const int32_t> values) {
  Tensor t = empty({static_cast<int64_t>(values.size())}, Dtype::kI32);
  std::memcpy(t.host(), values.data(), t.bytes());
  return t;
}

Tensor Tensor::wrap(void* data, const Shape& shape, Dtype dtype, std::shared_ptr<void> owner) {
  Tensor t;
  t.storage_ = std::shared_ptr<void>(std::move(owner), data);
  t.shape_ = shape;
  t.dtype_ = dtype;
  return t;
}

float Tensor::item() const {
  if (numel() != 1) fail("item() needs one element, the tensor is " + shape_.str());
  return to_vector()[0];
}

std::vector<float> Tensor::to_vector() const {
  Tensor out = empty(shape_);
  out.copy_from(*this);
  backend(device_).synchronize();
  auto values = out.span<float>();
  return {values.begin(), values.end()};
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (layout_ != Layout::kPlain) fail("reshape needs a plain tensor; call plain() first");
  if (shape.numel() != numel()) fail("cannot reshape " + shape_.str() + " to " + shape.str());
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::rows(int64_t start, int64_t count) const {
  if (rank() < 1 || start < 0 || count < 0 || start > dim(0) - count) {
    fail("rows " + std::to_string(start) + "+" + std::to_string(count) + " are not in " +
         shape_.str());
  }
  Tensor t = *this;
  const size_t row_bytes = dim(0) ? bytes() / static_cast<size_t>(dim(0)) : 0;
  t.shape_.set(0, count);
  t.offset_ += row_bytes * static_cast<size_t>(start);
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty_like(*this);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Dtype dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device_, layout_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::with_layout(Layout layout) const {
  if (layout == layout_) return *this;
  Tensor t = empty(shape_, dtype_, device_, layout);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) {
  if (!(source.shape_ == shape_)) {
    fail("cannot copy " + source.shape_.str() + " into " + shape_.str());
  }
  const Device worker = device_.type == Device::Type::kCpu ? source.device_ : device_;
  backend(worker).copy(source, *this);
}

void Tensor::fill(float value) { backend(device_).fill(*this, value); }

void Tensor::check_dtype(Dtype wanted) const {
  if (wanted != dtype_) {
    fail(std::string("tensor holds ") + ens::name(dtype_) + ", not " + ens::name(wanted));
  }
}

void Tensor::check_host() const {
  if (device_.type != Device::Type::kCpu) fail("tensor is on " + device_.str() + ", not the CPU");
}

}  // namespace ens
