// SPDX-License-Identifier: Apache-2.0
#include "lab/datasets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

RunConfig shapes(int64_t images, int64_t set_aside) {
  RunConfig config;
  config.mutable_data()->set_name("shapes");
  config.mutable_data()->set_train_limit(images);
  config.mutable_data()->set_test_limit(10);
  config.mutable_data()->set_public_images(set_aside);
  complete(config);
  return config;
}

std::multiset<std::string> images(const Dataset& data) {
  std::multiset<std::string> all;
  for (int64_t i = 0; i < data.count(); ++i) {
    const auto* first = data.pixels.data() + i * data.image_size();
    all.emplace(first, first + data.image_size());
  }
  return all;
}

TEST(SharedDataset, ImagesSetAsideAreNotTrainedOn) {
  const RunConfig config = shapes(100, 15);
  const auto train = shared_dataset(config, DataPart::kTrain);
  const auto aside = shared_dataset(config, DataPart::kPublic);
  EXPECT_EQ(train->count(), 85);
  EXPECT_EQ(aside->count(), 15);
  auto both = images(*train);
  both.merge(images(*aside));
  EXPECT_EQ(both, images(*shared_dataset(config, DataPart::kTrainAndPublic)));
  const auto trained = images(*train);
  EXPECT_TRUE(std::ranges::none_of(images(*aside), [&](auto& i) { return trained.contains(i); }));
  EXPECT_EQ(shared_dataset(config, DataPart::kTest)->count(), 10);
}

// Reading an image folder takes long: once for both.
TEST(SharedDataset, ThePartsOfATrainingSplitLiveTogether) {
  const RunConfig config = shapes(100, 15);
  const auto train = shared_dataset(config, DataPart::kTrain);
  const auto aside = shared_dataset(config, DataPart::kPublic);
  EXPECT_FALSE(train.owner_before(aside) || aside.owner_before(train));
  EXPECT_EQ(shared_dataset(config, DataPart::kTrain), train);
}

TEST(PublicPool, IsThePartThatTheSettingNamesOrAnError) {
  RunConfig config = shapes(100, 15);
  EXPECT_EQ(public_pool(config, "run")->count(), 15);
  config = shapes(100, 0);
  try {
    public_pool(config, "runs/old");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(error.what()).find("runs/old"), std::string::npos) << error.what();
  }
  config.mutable_attack()->set_public_source("training");
  EXPECT_EQ(public_pool(config, "run")->count(), 100);
}

TEST(SharedDataset, AtMostAFifthIsSetAsideAndPossiblyNone) {
  EXPECT_EQ(shared_dataset(shapes(100, 10000), DataPart::kPublic)->count(), 20);
  EXPECT_EQ(shared_dataset(shapes(100, 10000), DataPart::kTrain)->count(), 80);
  EXPECT_EQ(shared_dataset(shapes(100, 0), DataPart::kPublic)->count(), 0);
  EXPECT_EQ(shared_dataset(shapes(100, 0), DataPart::kTrain)->count(), 100);
}

// Runs of one sweep that differ in their seed are attacked with the same images.
TEST(SharedDataset, TheSameImagesAreSetAsideForEverySeed) {
  const test::TempDir dir;
  const std::filesystem::path folder = dir / "mnist";
  std::filesystem::create_directories(folder);
  std::string pixels{0, 0, 8, 3, 0, 0, 0, 50, 0, 0, 0, 28, 0, 0, 0, 28};
  std::string labels{0, 0, 8, 1, 0, 0, 0, 50};
  for (int i = 0; i < 50; ++i) {
    pixels += std::string(28 * 28, static_cast<char>(i));
    labels += static_cast<char>(i % 10);
  }
  for (const std::string split : {"train", "t10k"}) {
    write_file_atomically(folder / (split + "-images-idx3-ubyte"), pixels, false);
    write_file_atomically(folder / (split + "-labels-idx1-ubyte"), labels, false);
  }
  RunConfig config = shapes(50, 10);
  config.mutable_data()->set_name("mnist");
  config.mutable_data()->set_root(dir.path().string());
  const auto first = images(*shared_dataset(config, DataPart::kPublic));
  config.set_seed(7);
  EXPECT_EQ(images(*shared_dataset(config, DataPart::kPublic)), first);
}

}  // namespace
}  // namespace ens
