// SPDX-License-Identifier: Apache-2.0
// Names of devices, and what a program says about GPUs that are not there.
#include <gtest/gtest.h>

#include "base/error.h"
#include "nn/core/backend.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

// In this order: the first needs a process that has not offered GPUs yet.
TEST(Devices, AProgramThatOffersNoGpusSaysSo) {
  ENS_EXPECT_ERROR(parse_device("cuda"), "this program does not use GPUs");
  EXPECT_EQ(parse_device("auto"), Device{});
  EXPECT_FALSE(has_backend(Device::Type::kCuda));
}

TEST(Devices, AutoSaysOnceWhyItTookTheCpu) {
  offer_gpus();
  testing::internal::CaptureStderr();
  const Device first = parse_device("auto"), second = parse_device("auto");
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(first, second);
  if (first.type == Device::Type::kCuda) {
    EXPECT_EQ(said, "");
    return;
  }
  EXPECT_EQ(said.find("device auto: the CPU ("), 0u) << said;
  EXPECT_EQ(said.find('\n'), said.size() - 1) << said;
}

TEST(Devices, AGpuThatIsNotThereIsAnErrorWithAReason) {
  offer_gpus();
  if (has_backend(Device::Type::kCuda)) {
    EXPECT_EQ(parse_device("cuda"), (Device{Device::Type::kCuda, 0}));
    ENS_EXPECT_ERROR(parse_device("cuda:99"), "device cuda:99 is not there");
  } else {
    ENS_EXPECT_ERROR(parse_device("cuda"), "device cuda:0 is not available: ");
    ENS_EXPECT_ERROR(parse_device("cuda:3"), "device cuda:3 is not available: ");
  }
}

TEST(Devices, SeveralAreDifferentGpus) {
  offer_gpus();
  EXPECT_EQ(parse_devices("cpu"), std::vector{Device{}});
  EXPECT_EQ(str(parse_devices("cpu")), "cpu");
  ENS_EXPECT_ERROR(parse_devices("cpu,cpu"), "bad devices 'cpu,cpu'");
  for (const char* bad : {"", "cpu,", ",cpu", "cpu,gpu", "cuda:0,,cuda:1"}) {
    EXPECT_THROW(parse_devices(bad), Error) << bad;
  }
  if (!has_backend(Device::Type::kCuda)) {
    ENS_EXPECT_ERROR(parse_devices("cuda:all"), "device cuda:0 is not available: ");
    return;
  }
  const std::vector<Device> all = parse_devices("cuda:all");
  EXPECT_EQ(parse_devices(str(all)), all);
  ENS_EXPECT_ERROR(parse_devices("cuda:0,cuda:0"), "different GPUs");
  ENS_EXPECT_ERROR(parse_devices("cuda:0,cuda:99"), "cuda:99 is not there");
}

TEST(Devices, BadNamesAreRefused) {
  for (const char* bad : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CUDA", ""}) {
    EXPECT_THROW(parse_device(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace ens::test
