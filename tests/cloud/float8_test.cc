// SPDX-License-Identifier: Apache-2.0
// Serving in float8: what reaches the device, and what is said where it cannot be.
#include "nn/plan/float8.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "cloud/served_bundle.h"
#include "nn/core/backend.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/plan/fuse.h"
#include "tests/ensemble/bundles.h"

namespace ens {
namespace {

// A GPU with float8, as far as serving asks: the host's memory, and the rounded reference.
class Float8Gpu : public cpu::CpuBackend {
 public:
  Device device() const override { return {Device::Type::kCuda, 0}; }
  std::string description() const override { return "a GPU with float8"; }
  bool supports(Dtype dtype) const override { return dtype == Dtype::kF32; }
  bool serves(Dtype dtype) const override { return dtype == Dtype::kF8 || supports(dtype); }
  std::shared_ptr<void> allocate(size_t bytes) override { return backend({}).allocate(bytes); }
  void copy(const Tensor& src, Tensor& dst) override {
    ASSERT_EQ(src.bytes(), dst.bytes());
    std::memcpy(dst.raw(), src.raw(), src.bytes());
  }
  std::unique_ptr<Executable> compile(const std::vector<Graph>& nets, Dtype dtype,
                                      int64_t) override {
    EXPECT_EQ(dtype, expected);
    return std::make_unique<Nets>(nets);
  }

  static inline Dtype expected = Dtype::kF8;

 private:
  struct Nets : Executable {
    explicit Nets(std::vector<Graph> g) : graphs(std::move(g)) {}
    Tensor run(const Tensor& input) override {
      const Shape one = batched(input.dim(0), graphs[0].shape(graphs[0].output));
      Tensor all = Tensor::empty(batched(std::ssize(graphs), one));
      for (int64_t i = 0; i < std::ssize(graphs); ++i) {
        const Graph& graph = graphs[static_cast<size_t>(i)];
        all.rows(i, 1).reshape(one).copy_from(run_float8(graph, input.to(Device{})));
      }
      return all.to(Device{Device::Type::kCuda, 0});
    }
    size_t weight_bytes() const override { return 0; }
    size_t arena_bytes() const override { return 0; }
    std::vector<Graph> graphs;
  };
};

class ServeFloat8 : public testing::Test {
 protected:
  static void SetUpTestSuite() { install_backend(std::make_unique<Float8Gpu>()); }
  void SetUp() override {
    config_.set_bundle((dir_ / "cloud.h5").string());
    config_.set_device("cuda:0");
    config_.set_dtype("float8");
    config_.set_max_batch(4);
    complete(config_);
    const Shape sent = smashed_shape(bundles_.cloud.info.model, bundles_.cloud.info.split);
    features_ = Tensor::empty(batched(4, sent));
    Rng(2).fill_uniform(features_.span<float>(), 0, 2);
  }
  // Writes a calibrated bundle; what its nets answer in float8, [N, B, ...] row-major.
  std::vector<float> calibrate() {
    std::vector<float> answers;
    for (const auto& body : bundles_.cloud.bodies) {
      Graph graph = lower(*body, Shape(features_.shape().dims().subspan(1)));
      bundles_.cloud.ranges.push_back(input_ranges(graph, features_));
      set_input_ranges(graph, bundles_.cloud.ranges.back());
      const auto one = run_float8(fuse(graph), features_).to_vector();
      answers.insert(answers.end(), one.begin(), one.end());
    }
    write(bundles_, dir_.path());
    return answers;
  }
  std::string error() {
    try {
      const ServedBundle served(config_, config_.bundle());
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  test::TempDir dir_;
  test::Bundles bundles_ = test::random_bundles(1, 3, {0}, /*width=*/16);
  CloudConfig config_;
  Tensor features_;
};

TEST_F(ServeFloat8, TheDeviceGetsEveryNetsRanges) {
  const std::vector<float> want = calibrate();
  Float8Gpu::expected = Dtype::kF8;
  ServedBundle served(config_, config_.bundle());
  EXPECT_EQ(served.dtype, Dtype::kF8);
  EXPECT_EQ(served.lanes.run(features_).to_vector(), want);
}

TEST_F(ServeFloat8, AutoNeverTakesIt) {
  calibrate();
  config_.set_dtype("auto");
  Float8Gpu::expected = Dtype::kF32;
  EXPECT_EQ(ServedBundle(config_, config_.bundle()).dtype, Dtype::kF32);
}

TEST_F(ServeFloat8, WithoutRangesItSaysHowToGetThem) {
  write(bundles_, dir_.path());
  const std::string text = error();
  EXPECT_NE(text.find("cloud.h5"), std::string::npos) << text;
  EXPECT_NE(text.find("`ensembler calibrate RUN`"), std::string::npos) << text;
}

TEST_F(ServeFloat8, WithoutAGpuItSaysWhichItNeeds) {
  calibrate();
  config_.set_device("cpu");
  const std::string text = error();
  EXPECT_NE(text.find("NVIDIA GPU of compute capability 8.9 or newer"), std::string::npos) << text;
}

}  // namespace
}  // namespace ens
