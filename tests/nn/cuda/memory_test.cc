// SPDX-License-Identifier: Apache-2.0
// Streams and memory: tensors that change threads, reuse, and a captured step.
#include <cmath>
#include <thread>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/cuda/context.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

using GpuMemory = OnGpu<testing::Test>;

Backend& gpu() { return backend(kGpu); }

// A long queue of work, so that a reader who does not wait would see old numbers.
Tensor slow_counter(int rounds) {
  Tensor x = Tensor::zeros({1 << 20}, Dtype::kF32, kGpu);
  for (int i = 0; i < rounds; ++i) x = gpu().unary(UnaryOp::kAffine, x, 1, 1);
  return x;
}

TEST_F(GpuMemory, AnotherThreadSeesWhatWasAskedForBefore) {
  const Tensor x = slow_counter(40);
  float seen = 0;
  std::jthread([&] { seen = gpu().unary(UnaryOp::kAffine, x, 1, 0).to_vector()[12345]; }).join();
  EXPECT_EQ(seen, 40);
}

TEST_F(GpuMemory, WritersWaitForReadersOfOtherThreads) {
  Tensor x = slow_counter(10);
  Tensor copy;
  std::jthread([&] { copy = gpu().unary(UnaryOp::kAffine, x, 2, 0); }).join();
  x.fill(-1);  // must not overtake the reader
  EXPECT_EQ(copy.to_vector()[7], 20);
  EXPECT_EQ(x.to_vector()[7], -1);
}

// Memory that a thread frees goes back to its last writer, who must not reuse it too early.
TEST_F(GpuMemory, FreedByAnotherThread) {
  for (int round = 0; round < 20; ++round) {
    Tensor result;
    {
      Tensor x = slow_counter(4);
      std::jthread([&, mine = std::move(x)]() mutable {
        result = gpu().unary(UnaryOp::kAffine, mine, 1, 0.5f);
        mine = Tensor();
      }).join();
    }
    const Tensor noise =
        Tensor::full({1 << 20}, 1e9f, Dtype::kF32, kGpu);  // likely the same memory
    EXPECT_EQ(result.to_vector()[99], 4.5f);
  }
}

// Neither side may touch the other's memory.
TEST_F(GpuMemory, TensorsOfTwoDevicesInOneOperationAreAnError) {
  const Tensor image = Tensor::zeros({1, 8, 4, 4}), kernel = Tensor::zeros({8, 8, 3, 3});
  const auto conv = [](const Tensor& x, const Tensor& w) {
    ens::conv2d(Var(x), Var(w), {}, {1, 1});
  };
  EXPECT_THROW(conv(image, kernel.to(kGpu)), Error);
  EXPECT_THROW(conv(image.to(kGpu), kernel), Error);
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    const Tensor here = image.to(dtype), there = here.to(kGpu);
    EXPECT_THROW(gpu().binary(BinaryOp::kAdd, here, there), Error);
    EXPECT_THROW(gpu().binary(BinaryOp::kAdd, there, here), Error);
    EXPECT_THROW(backend(Device{}).binary(BinaryOp::kAdd, here, there), Error);
    EXPECT_THROW(backend(Device{}).binary(BinaryOp::kAdd, there, here), Error);
  }
  EXPECT_THROW(static_cast<void>(image.to(kGpu).host()), Error);
}

// Copies alone may read another GPU's memory.
TEST_F(GpuMemory, CopiesBetweenGpus) {
  if (parse_devices("cuda:all").size() < 2) GTEST_SKIP() << "one GPU";
  const Device other{Device::Type::kCuda, 1};
  const Tensor x = uniform({2, 3, 4, 5}, 1);
  for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast}) {
    const Tensor here = x.to(kGpu).with_layout(layout);
    EXPECT_EQ(here.to(other).to_vector(), x.to_vector());
    Tensor there = Tensor::empty(x.shape(), Dtype::kBF16, other, Layout::kChannelsLast);
    there.copy_from(here);
    EXPECT_EQ(there.to_vector(), x.to(Dtype::kBF16).to_vector());
    EXPECT_THROW(gpu().binary(BinaryOp::kAdd, here, here.to(other)), Error);
  }
}

TEST_F(GpuMemory, ThreadsTakeTurnsWithContexts) {
  int first = -1;
  std::jthread([&] { first = cuda::context(0).id; }).join();
  for (int i = 0; i < 100; ++i) {
    int id = -1;
    std::jthread([&] { id = cuda::context(0).id; }).join();
    EXPECT_EQ(id, first);
  }
}

TEST_F(GpuMemory, SteadyWorkAsksTheDriverForNothing) {
  const auto work = [] {
    const Var x(uniform({8, 16, 8, 8}, 1).to(kGpu), true);
    const Var w(uniform({16, 16, 3, 3}, 2).to(kGpu), true);
    sum(relu(conv2d(x, w, Var(), {1, 1}))).backward();
    return w.grad().to_vector()[0];
  };
  const float once = work();
  work();
  const size_t held = cuda::bytes_reserved(0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(work(), once);
  EXPECT_EQ(cuda::bytes_reserved(0), held);
}

// The gradient of a weight is computed on the side stream: its input may be overwritten at once,
// the result read by any thread, or dropped.
TEST_F(GpuMemory, WeightGradientsMindWhoeverTouchesTheirMemory) {
  const ConvSpec spec{1, 1};
  const Tensor x = uniform({4, 16, 8, 8}, 1), dy = uniform({4, 24, 8, 8}, 2);
  const Shape w{24, 16, 3, 3};
  const Tensor want = backend(Device{}).conv2d_grad_weight(x, dy, spec, w);
  for (const bool other_thread : {false, true}) {
    Tensor input = x.with_layout(Layout::kChannelsLast).to(kGpu);
    const Tensor slope = dy.with_layout(Layout::kChannelsLast).to(kGpu);
    Tensor got = gpu().conv2d_grad_weight(input, slope, spec, w);
    gpu().conv2d_grad_weight(input, slope, spec, w);  // nobody wants this one
    if (other_thread) {
      Tensor there;
      std::jthread([&] { there = got.to(Device{}); }).join();
      EXPECT_TRUE(near(there, want, 1e-5));
    }
    input.fill(NAN);
    EXPECT_TRUE(near(got.to(Device{}), want, 1e-5));
    got.fill(0);
    EXPECT_EQ(got.to_vector(), std::vector<float>(static_cast<size_t>(w.numel())));
  }
}

TEST_F(GpuMemory, NumbersArriveLater) {
  std::vector<std::function<float()>> numbers;
  Tensor x = Tensor::zeros({1}, Dtype::kF32, kGpu);
  for (int i = 0; i < 50; ++i) {
    x = gpu().unary(UnaryOp::kAffine, x, 1, 1);
    numbers.push_back(gpu().item_later(x));
  }
  x.fill(-1);
  float seen = 0;
  std::jthread([&] { seen = numbers[30](); }).join();
  EXPECT_EQ(seen, 31);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(numbers[static_cast<size_t>(i)](), i + 1);
}

TEST_F(GpuMemory, TooMuchIsAnErrorAndWorkGoesOn) {
  ENS_EXPECT_ERROR(Tensor::empty({int64_t{1} << 45}, Dtype::kF32, kGpu), "the GPU has no ");
  EXPECT_EQ(Tensor::full({3}, 2, Dtype::kF32, kGpu).to_vector(), std::vector<float>(3, 2.0f));
}

TEST_F(GpuMemory, ACapturedStepReplaysOnNewNumbers) {
  Tensor input = Tensor::empty({4, 8, 6, 6}, Dtype::kF32, kGpu);
  const Var w(uniform({8, 8, 3, 3}, 2).to(kGpu), true);
  Tensor gradient = Tensor::zeros(w.shape(), Dtype::kF32, kGpu);
  const auto step = [&] {
    sum(square(conv2d(Var(input), w, Var(), {1, 1}))).backward();
    gradient.copy_from(w.grad());
    w.zero_grad();
  };
  input.copy_from(uniform(input.shape(), 1));
  step();
  step();
  cuda::Context& c = cuda::context(0);
  std::unique_ptr<cuda::Capture::Graph> graph;
  {
    cuda::Capture capture(c);
    step();
    graph = capture.finish();
  }
  const auto expected = [&](uint32_t seed) {
    input.copy_from(uniform(input.shape(), seed));
    step();
    return gradient.to_vector();
  };
  for (const uint32_t seed : {3u, 4u, 5u}) {
    const std::vector<float> want = expected(seed);
    gradient.fill(0);
    input.copy_from(uniform(input.shape(), seed));
    graph->launch(c);
    EXPECT_EQ(gradient.to_vector(), want);
    expected(9);  // other work between replays
  }
}

TEST_F(GpuMemory, HostMemoryCannotTakePartInACapture) {
  const Tensor x = Tensor::full({8}, 1, Dtype::kF32, kGpu);
  cuda::Context& c = cuda::context(0);
  {
    cuda::Capture capture(c);
    ENS_EXPECT_ERROR(x.to_vector(), "captured step");
  }
  EXPECT_EQ(x.to_vector()[3], 1);  // the thread is as before
}

}  // namespace
}  // namespace ens::test
