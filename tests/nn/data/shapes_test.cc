#include <gtest/gtest.h>

#include <array>

#include "nn/data/dataset.h"
#include "tests/nn/data/files.h"

namespace ens {
namespace {

using namespace test;

DataOptions shapes(int64_t limit, uint64_t seed = 1) {
  DataOptions options;
  options.name = "shapes";
  options.limit = limit;
  options.seed = seed;
  return options;
}

TEST(Shapes, NeedNoFileAndAreBalanced) {
  EXPECT_TRUE(dataset_present(shapes(0)));
  const Dataset test = load_dataset(shapes(0), DataSplit::kTest);
  EXPECT_EQ(test.count(), 4000);
  EXPECT_EQ(test.channels, 3);
  EXPECT_EQ(test.height, 32);
  ASSERT_EQ(test.class_names.size(), 10u);
  std::array<int, 10> counts{};
  for (const int32_t label : test.labels) ++counts.at(label);
  for (const int count : counts) EXPECT_EQ(count, 400);
}

TEST(Shapes, SameSeedSameImagesWhateverTheLimit) {
  const Dataset many = load_dataset(shapes(60), DataSplit::kTrain);
  const Dataset few = load_dataset(shapes(20), DataSplit::kTrain);
  EXPECT_EQ(many.head(20).pixels, few.pixels);
  EXPECT_EQ(many.mean, few.mean);
  EXPECT_EQ(many.stddev, load_dataset(shapes(5), DataSplit::kTest).stddev);
}

TEST(Shapes, SeedsAndSplitsDiffer) {
  const Dataset train = load_dataset(shapes(20), DataSplit::kTrain);
  EXPECT_NE(train.pixels, load_dataset(shapes(20, 2), DataSplit::kTrain).pixels);
  EXPECT_NE(train.pixels, load_dataset(shapes(20), DataSplit::kTest).pixels);
}

TEST(Shapes, ObeyImageSize) {
  DataOptions options = shapes(10);
  options.image_size = 64;
  const Dataset data = load_dataset(options, DataSplit::kTest);
  EXPECT_EQ(data.height, 64);
  EXPECT_EQ(data.pixels.size(), 10u * 3 * 64 * 64);
  options.image_size = 8;
  EXPECT_EQ(caught([&] { load_dataset(options, DataSplit::kTest); }).kind, Error::Kind::kUsage);
}

// No mean colour gives the class away: the nearest class mean in pixel space is a poor classifier.
// (A small convolutional net passes 90 %; that is trained elsewhere.)
TEST(Shapes, AreNotSolvedByPixelMeans) {
  const Dataset train = load_dataset(shapes(4000), DataSplit::kTrain);
  const Dataset test = load_dataset(shapes(500), DataSplit::kTest);
  const int64_t size = train.image_size();
  std::vector<double> means(static_cast<size_t>(10 * size));
  for (int64_t i = 0; i < train.count(); ++i) {
    for (int64_t k = 0; k < size; ++k) {
      means[train.labels[i] * size + k] += train.pixels[i * size + k] / 400.0;
    }
  }
  int right = 0;
  for (int64_t i = 0; i < test.count(); ++i) {
    int best = 0;
    double least = 1e300;
    for (int c = 0; c < 10; ++c) {
      double distance = 0;
      for (int64_t k = 0; k < size; ++k) {
        const double d = test.pixels[i * size + k] - means[c * size + k];
        distance += d * d;
      }
      if (distance < least) {
        least = distance;
        best = c;
      }
    }
    right += best == test.labels[i];
  }
  EXPECT_LT(right, 150) << "of 500";
}

}  // namespace
}  // namespace ens
