// SPDX-License-Identifier: Apache-2.0
// The server nets on one GPU and spread over all there are.
#include "cloud/lanes.h"
#include "nn/core/backend.h"
#include "tests/ensemble/bundles.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/nn/plan/cases.h"

namespace ens::test {
namespace {

using GpuLanes = OnGpu<testing::Test>;

void expect_same_answers(const std::vector<Device>& devices) {
  const Bundles bundles = random_bundles(3, 5, {0});
  const Shape one = smashed_shape(bundles.cloud.info.model, bundles.cloud.info.split);
  Lanes cpu(bundles.cloud, {Device{}}, Dtype::kF32, 4, 1);
  Lanes gpu(bundles.cloud, devices, Dtype::kF32, 4, 0);
  EXPECT_EQ(gpu.count(), static_cast<int>(std::min<size_t>(devices.size(), 5)));
  for (int64_t batch : {1, 4, 7}) {
    const Tensor x = random_batch(batch, one, static_cast<uint64_t>(batch));
    const auto want = cpu.run(x).to_vector();
    const Tensor got = gpu.run(x);
    EXPECT_EQ(got.device(), Device{});
    ASSERT_EQ(got.dim(0), 5);
    expect_close({want.begin(), want.end()}, got, 1e-4);
  }
}

TEST_F(GpuLanes, OneGpuComputesEveryNet) { expect_same_answers({kGpu}); }

TEST_F(GpuLanes, NetsSpreadOverAllGpus) {
  const std::vector<Device> all = parse_devices("cuda:all");
  if (all.size() < 2) GTEST_SKIP() << "one GPU";
  for (const Device& device : all) backend(device).allow_tf32(false);
  expect_same_answers(all);
}

}  // namespace
}  // namespace ens::test
