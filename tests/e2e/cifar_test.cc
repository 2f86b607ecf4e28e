// SPDX-License-Identifier: Apache-2.0
// The main job on real photographs, small: train, serve over a socket, attack. Needs CIFAR-10.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "nn/data/dataset.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

nlohmann::json read_json(const fs::path& file) {
  return nlohmann::json::parse(std::ifstream(file));
}

TEST(Cifar, TrainsServesAndIsReconstructed) {
  if (!dataset_present({})) {
    GTEST_SKIP() << "CIFAR-10 is not in " << data_root("") << " (ensembler data get cifar10)";
  }
  const test::TempDir temp;
  const fs::path& folder = temp.path();
  std::vector<std::string> a{std::string(ENS_BIN_DIR) + "/ensembler",
                             "demo",
                             "--offline",
                             "--config",
                             std::string(ENS_SOURCE_DIR) + "/configs/demo.txtpb",
                             "--out",
                             folder.string()};
  for (const char* s :
       {"data.train_limit=12500", "data.public_images=2500", "data.test_limit=1000",
        "ensemble.nets=2", "ensemble.selected=1", "stage1.epochs=4", "stage2.epochs=4",
        "stage1.batch=64", "stage2.batch=64", "stage1.lr=0.1", "attack.public_images=2000",
        "attack.scored_images=64", "attack.shadow.epochs=1", "attack.decoder.epochs=1",
        "attack.decoder.channels=32", "attack.decoder.blocks=2", "attack.alignment.steps=60",
        "attack.reference_images=2000"}) {
    a.insert(a.end(), {"--set", s});
  }
  Process demo(a, {.capture = true, .err_file = folder / "stderr.txt", .err_append = true});
  ASSERT_EQ(demo.wait(), 0) << std::ifstream(folder / "stderr.txt").rdbuf();
  const fs::path none = folder / "cifar10/none", ensembler = folder / "cifar10/ensembler";
  // Chance is 0.1. Both must have learned, and what is served must be what was trained.
  EXPECT_GT(read_json(none / "summary.json").at("accuracy"), 0.40);
  const double trained = read_json(ensembler / "summary.json").at("accuracy");
  EXPECT_GT(trained, 0.35);
  EXPECT_NEAR(read_json(ensembler / "serve.json").at("accuracy"), trained, 0.02);
  // A decoder trained on the client's features sees the pictures; two grey images score about 0.
  for (const fs::path& run : {none, ensembler}) {
    EXPECT_GT(read_json(run / "attack/oracle/result.json").at("ssim").at("mean"), 0.4) << run;
  }
}

}  // namespace
}  // namespace ens
