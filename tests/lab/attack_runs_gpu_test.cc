// SPDX-License-Identifier: Apache-2.0
// Every attack on a finished run, on a GPU and on the CPU.
#include <fstream>
#include <nlohmann/json.hpp>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

namespace fs = std::filesystem;

class GpuAttacks : public OnGpu<testing::Test> {
 protected:
  // Drawn figures, a ResNet of width 4, two nets; each attack as small as it can be.
  static RunConfig config(const std::string& device) {
    RunConfig c;
    apply_overrides({"data.name=shapes",
                     "data.image_size=16",
                     "data.train_limit=64",
                     "data.test_limit=32",
                     "model.width=4",
                     "model.stem_pool=false",
                     "ensemble.nets=2",
                     "ensemble.selected=1",
                     "stage1.epochs=1",
                     "stage1.batch=32",
                     "stage2.epochs=1",
                     "stage2.batch=32",
                     "protection.kind=ensembler",
                     "dtype=float32",
                     "tf32=false",
                     "attack.scored_images=5",
                     "attack.public_images=24",
                     "attack.observed_features=4",
                     "attack.reference_images=320",
                     "attack.decoder.epochs=3",
                     "attack.decoder.channels=8",
                     "attack.shadow.epochs=3",
                     "attack.shadow.channels=4",
                     "attack.shadow_enumerate.screen_epochs=1",
                     "attack.alignment.steps=2",
                     "attack.alignment.batch=8",
                     "attack.rmle.iterations=2",
                     "attack.map_prior.steps=2",
                     "attack.fora.steps=2",
                     "attack.fora.batch=8",
                     "attack.fora.restarts=1",
                     "attack.known_pairs.counts=6",
                     "attack.batch=8",
                     "device=" + device},
                    c);
    complete(c);
    return c;
  }

  // Its scores, on `device`.
  nlohmann::json attack(const std::string& name, const std::string& device,
                        const std::string& dtype) const {
    RunConfig wanted = config(device);
    wanted.set_dtype(dtype);
    TaskContext task({}, 0, [](double, const std::string&) {});
    EXPECT_NO_THROW(AttackTarget(run_, wanted).run(name, Tensor(), 1, task));
    return nlohmann::json::parse(std::ifstream(run_ / "attack" / name / "result.json"));
  }

  TempDir temp_;
  const fs::path run_ = temp_ / "run";
};

TEST_F(GpuAttacks, EndNearTheCpu) {
  train_run(config("cuda"), run_, {});
  // Where it is attacked is not where it was trained.
  EXPECT_THROW(AttackTarget(run_, config("cuda:99")), Error);
  for (const std::string& name : attack_names()) {
    SCOPED_TRACE(name);
    const nlohmann::json cpu = attack(name, "cpu", "float32");
    if (cpu.contains("pointless")) continue;  // the client sends the same each time
    const nlohmann::json gpu = attack(name, "cuda", "float32");
    for (const char* score : {"ssim", "mse"}) {
      ASSERT_TRUE(cpu.contains(score)) << cpu.dump();
      ASSERT_TRUE(gpu.contains(score)) << gpu.dump();
      EXPECT_NEAR(cpu[score]["mean"], gpu[score]["mean"], 1e-3) << score;
    }
    // As users run it. How near is the types' matter.
    EXPECT_TRUE(attack(name, "cuda", "bfloat16").contains("ssim"));
  }
}

}  // namespace
}  // namespace ens::test
