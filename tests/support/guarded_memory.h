// SPDX-License-Identifier: Apache-2.0
// Sentinels before and behind the memory of every tensor that a test makes, on any device, so that
// a write out of bounds is seen. The memory starts as NaN, so that a result that depends on it is
// seen, too.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "nn/core/tensor.h"

namespace ens::test {

// From its construction to its destruction Tensor::empty() makes guarded tensors; their memory is
// kept until then. One at a time in a process, in which one thread makes tensors.
class GuardedMemory {
 public:
  GuardedMemory();
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // Whether no sentinel has changed so far. Names the tensor's size and the first byte that has.
  testing::AssertionResult intact();

 private:
  void begin();
  std::shared_ptr<void> allocate(Device device, size_t bytes);

  std::vector<Tensor> all_;  // of bytes: sentinel, the tensor's memory, sentinel
};

// A fixture whose tests fail where one of their tensors' sentinels has changed.
template <typename Base>
class Guarded : public Base {
 protected:
  void TearDown() override {
    EXPECT_TRUE(memory_.intact());
    Base::TearDown();
  }

 private:
  GuardedMemory memory_;
};

}  // namespace ens::test
