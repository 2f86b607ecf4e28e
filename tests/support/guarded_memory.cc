// SPDX-License-Identifier: Apache-2.0
#include "tests/support/guarded_memory.h"

#include <cstdint>

namespace ens::test {
namespace {

constexpr int64_t kSentinel = 256;  // bytes on either side; keeps every alignment that is promised
constexpr uint8_t kPattern = 0xFF;  // NaN in every floating-point dtype

}  // namespace

GuardedMemory::GuardedMemory() { begin(); }

void GuardedMemory::begin() {
  set_tensor_allocator([this](Device device, size_t bytes) { return allocate(device, bytes); });
}

GuardedMemory::~GuardedMemory() { set_tensor_allocator(nullptr); }

std::shared_ptr<void> GuardedMemory::allocate(Device device, size_t bytes) {
  // The backend's own memory, which is not guarded, and which knows its block by its deleter.
  set_tensor_allocator(nullptr);
  Tensor all =
      Tensor::full({static_cast<int64_t>(bytes) + 2 * kSentinel}, kPattern, Dtype::kU8, device);
  begin();
  all_.push_back(all);
  return {all.storage(), static_cast<std::byte*>(all.raw()) + kSentinel};
}

testing::AssertionResult GuardedMemory::intact() {
  set_tensor_allocator(nullptr);
  testing::AssertionResult result = testing::AssertionSuccess();
  for (const Tensor& t : all_) {
    const Tensor here = t.to(Device{});
    const std::span<uint8_t> bytes = here.span<uint8_t>();
    const auto size = static_cast<int64_t>(bytes.size());
    for (int64_t i = 0; i < size && result; ++i) {
      if (i == kSentinel) i = size - kSentinel;
      if (bytes[static_cast<size_t>(i)] == kPattern) continue;
      result = testing::AssertionFailure()
               << "a tensor of " << size - 2 * kSentinel << " bytes on " << t.device().str()
               << " was overrun: byte " << i - kSentinel << " from its start has changed";
    }
  }
  begin();
  return result;
}

}  // namespace ens::test
