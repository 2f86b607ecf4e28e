// SPDX-License-Identifier: Apache-2.0
#include "cloud/lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/threads.h"
#include "nn/autograd/var.h"
#include "tests/ensemble/bundles.h"

namespace ens {
namespace {

// Every net's answers, for any number of lanes and any batch, are what the module itself computes.
TEST(Lanes, ComputeEveryNetOnItsOwn) {
  const test::Bundles bundles = test::random_bundles(3, 5, {0});
  const Shape one = smashed_shape(bundles.cloud.info.model, bundles.cloud.info.split);
  Tensor features = Tensor::empty({7, one[0], one[1], one[2]});
  Rng(4).fill_uniform(features.span<float>(), 0, 2);
  const NoGrad no_grad;
  for (int threads : {1, 2, 3, 8}) {
    Lanes lanes(bundles.cloud, {Device{}}, Dtype::kF32, 4, threads);
    EXPECT_EQ(lanes.count(), std::min(threads, 5));
    for (int64_t batch : {1, 4, 7}) {
      const Tensor answers = lanes.run(features.rows(0, batch));
      ASSERT_EQ(answers.dim(0), 5);
      ASSERT_EQ(answers.dim(1), batch);
      const std::vector<float> got = answers.to_vector();
      size_t at = 0;
      for (const auto& body : bundles.cloud.bodies) {
        const auto want = body->forward(Var(features.rows(0, batch))).value().to_vector();
        double scale = 0;
        for (float v : want) scale = std::max(scale, std::abs(double{v}));
        for (float v : want) ASSERT_NEAR(got[at++], v, 1e-4 * scale) << threads << " lanes";
      }
    }
  }
}

// Threads of this process that may run on exactly one processor.
int threads_on_one_processor() {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (!line.starts_with("Cpus_allowed_list:")) continue;
      count += line.find_first_of(",-") == std::string::npos;
    }
  }
  return count;
}

// A program that pins its own thread (the lab does) may start a server.
TEST(Lanes, DoNotInheritTheProcessorOfWhoStartsThem) {
  if (std::getenv("OMP_PROC_BIND") || std::getenv("OMP_PLACES") ||
      std::getenv("GOMP_CPU_AFFINITY")) {
    GTEST_SKIP() << "the user binds the threads";
  }
  const test::Bundles bundles = test::random_bundles(1, 2, {0});
  std::thread([&] {
    set_compute_threads(1);
    pin_this_thread(0);
    const int before = threads_on_one_processor();
    const Lanes lanes(bundles.cloud, {Device{}}, Dtype::kF32, 1, 2);
    if (before > 1) GTEST_SKIP() << "one processor only";
    EXPECT_EQ(threads_on_one_processor(), before);
  }).join();
}

}  // namespace
}  // namespace ens
