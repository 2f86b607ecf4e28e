// SPDX-License-Identifier: Apache-2.0
// Whole trainings on GPUs: against the CPU's, and the same on several devices as on one.
#include <cmath>

#include "ensemble/train/trainer.h"
#include "experiment/setup.h"
#include "nn/data/loader.h"
#include "tests/ensemble/train/same_run.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

namespace fs = std::filesystem;

class GpuTrainer : public OnGpu<testing::Test> {
 protected:
  // Drawn figures, a ResNet of width 4; three nets, so that two devices do not share them equally.
  fs::path train(const std::string& device) {
    RunConfig config;
    apply_overrides(
        {"data.name=shapes", "data.image_size=16", "data.train_limit=64", "data.test_limit=32",
         "model.width=4", "model.stem_pool=false", "ensemble.nets=3", "ensemble.selected=2",
         "ensemble.insecure_seeded_secrets=true", "dtype=float32", "tf32=false", "stage1.epochs=1",
         "stage1.batch=32", "stage1.lr=0.05", "stage2.epochs=1", "stage2.batch=32",
         "stage2.lr=0.05", "protection.kind=ensembler", "device=" + device},
        config);
    complete(config);
    const Dataset images = load_dataset(data_options(config, DataSplit::kTrain), DataSplit::kTrain);
    const Dataset test = load_dataset(data_options(config, DataSplit::kTest), DataSplit::kTest);
    const fs::path folder = temp_ / std::to_string(runs_++);
    RunDir run(folder, to_text(config), {"test", device, config.seed()});
    train_ensemble(config, run, images, test);
    return folder;
  }

  TempDir temp_;
  int runs_ = 0;
};

TEST_F(GpuTrainer, EndsNearTheCpu) {
  const fs::path on_cpu = train("cpu"), on_gpu = train("cuda");
  for (const char* file : {"edge.h5", "cloud.h5"}) {
    SCOPED_TRACE(file);
    const auto cpu = weights(on_cpu / file), gpu = weights(on_gpu / file);
    ASSERT_EQ(cpu.size(), gpu.size());
    for (const auto& [name, want] : cpu) {
      const std::vector<float>& got = gpu.at(name);
      ASSERT_EQ(got.size(), want.size()) << name;
      double apart = 0, size = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        apart += (double{want[i]} - got[i]) * (double{want[i]} - got[i]);
        size += double{want[i]} * want[i];
      }
      // The second number is what one ReLU that falls on the other side moves.
      EXPECT_LE(std::sqrt(apart), 1e-3 * std::sqrt(size) + 2e-4) << name;
    }
  }
}

TEST_F(GpuTrainer, SeveralDevicesEndInTheWeightsOfOne) {
  const std::vector<Device> all = parse_devices("cuda:all");
  if (all.size() < 2) GTEST_SKIP() << "one GPU";
  expect_same_run(train("cuda:0"), train("cuda:all"));
}

}  // namespace
}  // namespace ens::test
