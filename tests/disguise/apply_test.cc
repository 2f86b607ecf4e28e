// SPDX-License-Identifier: Apache-2.0
// A data set, disguised: the rows are the images, transformed, in an order that the file does not
// tell.
#include "disguise/owner/apply.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/files.h"
#include "disguise/owner/queries.h"
#include "nn/core/rng.h"
#include "nn/io/checkpoint.h"
#include "proto/config.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::error_of;

constexpr int64_t kImages = 700;

// Images whose first two pixels are their number, of class number % 5.
Dataset numbered(int channels = 3, int64_t count = kImages) {
  Dataset data;
  data.name = "numbered";
  data.channels = channels;
  data.height = 8;
  data.width = 12;
  data.class_names = {"a", "b", "c", "d", "e"};
  Rng rng(3);
  for (int64_t i = 0; i < count; ++i) {
    data.labels.push_back(static_cast<int32_t>(i % 5));
    for (int64_t p = 0; p < data.image_size(); ++p) {
      data.pixels.push_back(static_cast<uint8_t>(p == 0   ? i % 256
                                                 : p == 1 ? i / 256
                                                          : rng.below(256)));
    }
  }
  return data;
}

DisguiseKey key_for(const Dataset& data, const std::vector<std::string>& overrides) {
  RunConfig config;
  apply_overrides(overrides, config);
  complete(config);
  return DisguiseKey::make(config.disguise(),
                           {{data.channels, data.height, data.width}, "crop", data.class_names}, 1,
                           key_samples(config.disguise(), data, &data));
}

class Apply : public ::testing::Test {
 protected:
  DisguisedSetReader applied(const DisguiseKey& key, const std::string& name,
                             const ApplyOptions& options = {}, const std::string& split = "train") {
    apply_disguise(key, data_, split, dir_ / name, options);
    return DisguisedSetReader(dir_ / name);
  }
  // The numbers of a set's images, whose method is identity.
  static std::vector<int64_t> numbers_of(const DisguisedSetReader& set) {
    const Tensor rows = set.rows(0, set.info().rows);
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < set.info().rows; ++i) {
      const float* row = rows.data<float>() + i * (rows.numel() / rows.dim(0));
      numbers.push_back(static_cast<int64_t>(row[0] + 256 * row[1]));
    }
    return numbers;
  }

  test::TempDir dir_;
  Dataset data_ = numbered();
};

// Each image is the first of so many mixtures of the whole set.
TEST_F(Apply, MixturesHaveSoftLabels) {
  const DisguiseKey key =
      key_for(data_, {"disguise.method=instahide", "disguise.instahide.encodings=3",
                      "disguise.permute_labels=true"});
  const DisguisedSetReader set = applied(key, "mixed.h5");
  EXPECT_EQ(set.info().rows, 3 * kImages);
  ASSERT_TRUE(set.info().soft_labels);
  const Tensor shares = set.soft_labels();
  std::vector<double> of_class(5);
  for (int64_t row = 0; row < shares.dim(0); ++row) {
    double sum = 0;
    for (int64_t c = 0; c < 5; ++c) {
      sum += shares.data<float>()[row * 5 + c];
      of_class[static_cast<size_t>(c)] += shares.data<float>()[row * 5 + c];
    }
    ASSERT_NEAR(sum, 1, 1e-5);
  }
  for (const double weight : of_class) EXPECT_NEAR(weight, 3 * kImages / 5.0, 60);
  // Normalised images, so that mixtures have mean 0, by their random signs, and less variance.
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(set.info().mean[c], 0, 0.02);
    EXPECT_LT(set.info().stddev[c], 1);
  }
  const DisguisedSetReader test = applied(key, "mixed-test.h5", {}, "test");
  EXPECT_EQ(test.info().rows, kImages);
  EXPECT_EQ(test.labels().size(), static_cast<size_t>(kImages));
  // A query is ten mixtures, whose answers are averaged in the owner's order of classes.
  DisguisedQueries queries(key, key.id(), {3, 8, 12}, "model");
  EXPECT_EQ(queries.disguise(Tensor::full({2, 3, 8, 12}, 0.5f)).shape(), Shape({20, 3, 8, 12}));
  Tensor logits = Tensor::zeros({20, 5});
  for (int64_t i = 0; i < 100; ++i) logits.data<float>()[i] = static_cast<float>(i / 5 + i % 5);
  const std::vector<int32_t> names = key.renamed_classes();
  const Tensor own = queries.own_classes(logits);
  ASSERT_EQ(own.shape(), Shape({2, 5}));
  for (int64_t c = 0; c < 5; ++c) {
    const float name = static_cast<float>(names[static_cast<size_t>(c)]);
    EXPECT_NEAR(own.data<float>()[c], 4.5f + name, 1e-5);
    EXPECT_NEAR(own.data<float>()[5 + c], 14.5f + name, 1e-5);
  }
  EXPECT_NE(error_of([&] {
              queries.own_classes(Tensor::zeros({19, 5}));
            }).find("no logits"),
            std::string::npos);
}

TEST_F(Apply, PublicImagesAreMixedInWhereTheyAreAskedFor) {
  const DisguiseKey key =
      key_for(data_, {"disguise.method=instahide", "disguise.instahide.mix=cross",
                      "disguise.instahide.encodings=1", "disguise.instahide.public_data=other"});
  EXPECT_NE(error_of([&] {
              apply_disguise(key, data_, "train", dir_ / "none.h5", {});
            }).find("public_data"),
            std::string::npos);
  const Dataset other = numbered();
  const DisguisedSetReader set = applied(key, "cross.h5", {.public_data = &other});
  double sum = 0;
  for (const float share : set.soft_labels().span<float>()) sum += share;
  EXPECT_LT(sum, 0.6 * kImages) << "public images have no labels";
  EXPECT_GT(sum, 0.3 * kImages);
}

TEST_F(Apply, EveryImageIsThereOnceInASecretOrder) {
  const DisguiseKey key = key_for(data_, {"disguise.method=identity"});
  const DisguisedSetReader set = applied(key, "a.h5");
  EXPECT_EQ(set.info().method, "identity");
  EXPECT_EQ(set.info().key_id, key.id());
  EXPECT_EQ(set.info().split, "train");
  EXPECT_EQ(set.info().dtype, Dtype::kF16);
  EXPECT_TRUE(set.info().marks.empty());
  const std::vector<int64_t> numbers = numbers_of(set);
  std::vector<int64_t> sorted = numbers;
  std::ranges::sort(sorted);
  for (int64_t i = 0; i < kImages; ++i) ASSERT_EQ(sorted[static_cast<size_t>(i)], i);
  const std::vector<int32_t> labels = set.labels();
  int64_t in_place = 0, after = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(labels[i], numbers[i] % 5);
    in_place += numbers[i] == static_cast<int64_t>(i);
    after += i > 0 && numbers[i] == numbers[i - 1] + 1;
    const Tensor row = set.rows(static_cast<int64_t>(i), 1);
    ASSERT_EQ(row.to_vector(), pixels_of(data_, {numbers[i]}).to_vector())
        << "float16 has whole pixels exactly";
  }
  EXPECT_LT(in_place, 10);  // of a random permutation, 1 is expected
  EXPECT_LT(after, 10);
  EXPECT_NE(numbers_of(applied(key, "b.h5")), numbers) << "another order every time";
  EXPECT_NE(applied(key, "c.h5").info().set_id, set.info().set_id);
}

// Whoever has the file has neither the key, nor what follows from it, nor the order.
TEST_F(Apply, TheFileHoldsNoSecret) {
  const DisguiseKey key = key_for(
      data_, {"disguise.method=rmt", "disguise.rmt.permute=true", "disguise.permute_labels=true"});
  key.write(dir_ / "owner.key");
  applied(key, "rmt.h5");
  const std::string bytes = read_file(dir_ / "rmt.h5");
  const Checkpoint secrets = read_checkpoint(dir_ / "owner.key", "disguise-key");
  for (const auto& [name, tensor] : secrets.tensors) {
    const std::string content(static_cast<const char*>(tensor.host()), tensor.bytes());
    for (size_t at = 0; at + 24 <= content.size(); at += 4) {
      const std::string piece = content.substr(at, 24);
      ASSERT_EQ(bytes.find(piece), std::string::npos) << name << " " << at;
    }
  }
  EXPECT_EQ(bytes.find("numbered"), std::string::npos);
  // The order of an identity set, which can be read from its rows, is nowhere as numbers.
  const DisguisedSetReader plain =
      applied(key_for(data_, {"disguise.method=identity"}), "identity.h5");
  const std::vector<int64_t> numbers = numbers_of(plain);
  const std::vector<int32_t> narrow(numbers.begin(), numbers.end());
  const std::string file = read_file(dir_ / "identity.h5");
  EXPECT_EQ(file.find(std::string(reinterpret_cast<const char*>(numbers.data()), 32)),
            std::string::npos);
  EXPECT_EQ(file.find(std::string(reinterpret_cast<const char*>(narrow.data()), 16)),
            std::string::npos);
}

TEST_F(Apply, RowsAreWhatTheKeysTransformMakesOfTheImages) {
  // Queries go through the same transform as training images: of public code, one had neither.
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{"disguise.method=rmt", "disguise.store=float32"},
        {"disguise.method=aes", "disguise.aes.unit=2x2"}}) {
    const DisguiseKey key = key_for(data_, overrides);
    const DisguisedSetReader set = applied(key, key.method() + ".h5");
    std::vector<int64_t> all(kImages);
    for (int64_t i = 0; i < kImages; ++i) all[static_cast<size_t>(i)] = i;
    FreshRandomness fresh;
    const Tensor queries = key.transform()->apply(pixels_of(data_, all), fresh);
    std::multiset<std::vector<float>> wanted, found;
    for (int64_t i = 0; i < kImages; ++i) {
      wanted.insert(queries.rows(i, 1).to_vector());
      found.insert(set.rows(i, 1).to_vector());
    }
    EXPECT_EQ(wanted, found);
  }
}

TEST_F(Apply, NoiseIsDrawnAnewEveryTime) {
  const DisguiseKey key = key_for(data_, {"disguise.method=noise", "disguise.store=float32"});
  const Tensor a = applied(key, "a.h5").rows(0, kImages), b = applied(key, "b.h5").rows(0, kImages);
  std::set<float> seen(a.span<float>().begin(), a.span<float>().end());
  int64_t again = 0;
  for (const float value : b.span<float>()) again += seen.contains(value);
  EXPECT_LT(again, a.numel() / 100);
}

TEST_F(Apply, AnInsecureSetIsMarkedAndCanBeRepeated) {
  const DisguiseKey key = key_for(data_, {"disguise.method=rmt", "disguise.rmt.noise=25",
                                          "disguise.insecure_seeded_secrets=true"});
  EXPECT_EQ(applied(key, "a.h5").info().marks, std::vector<std::string>{"insecure_seeded_secrets"});
  applied(key, "b.h5");
  EXPECT_EQ(read_file(dir_ / "a.h5"), read_file(dir_ / "b.h5"));
}

TEST_F(Apply, LabelsAreRenamed) {
  const DisguiseKey key =
      key_for(data_, {"disguise.method=identity", "disguise.permute_labels=true"});
  const DisguisedSetReader set = applied(key, "a.h5");
  const std::vector<int64_t> numbers = numbers_of(set);
  const std::vector<int32_t> names = key.renamed_classes(), labels = set.labels();
  for (size_t i = 0; i < numbers.size(); ++i)
    EXPECT_EQ(labels[i], names[static_cast<size_t>(numbers[i] % 5)]);
}

TEST_F(Apply, AugmentMakesVersionsOfTrainingImagesAlone) {
  const DisguiseKey key = key_for(data_, {"disguise.method=identity", "disguise.augment=3"});
  const DisguisedSetReader set = applied(key, "a.h5", {.crop_padding = 2, .flip = true});
  EXPECT_EQ(set.info().rows, 3 * kImages);
  std::map<std::vector<float>, int> rows;
  int64_t black = 0;
  for (int64_t i = 0; i < set.info().rows; ++i) {
    const std::vector<float> row = set.rows(i, 1).to_vector();
    ++rows[row];
    const size_t first_row = 12;
    black +=
        std::all_of(row.begin(), row.begin() + first_row, [](float pixel) { return pixel == 0; });
  }
  for (int64_t i = 0; i < kImages; ++i)
    EXPECT_GE(rows[pixels_of(data_, {i}).to_vector()], 1) << "the image itself is one version";
  EXPECT_GT(rows.size(), 2 * static_cast<size_t>(kImages));
  EXPECT_NEAR(static_cast<double>(black), 2 * kImages * 0.4,
              100);  // shifted down by 1 or 2 of -2..2
  std::map<int32_t, int64_t> of_class;
  for (const int32_t label : set.labels()) ++of_class[label];
  for (const auto& [label, count] : of_class) EXPECT_EQ(count, 3 * kImages / 5);
  EXPECT_EQ(applied(key, "test.h5", {.crop_padding = 2}, "test").info().rows, kImages);
}

TEST_F(Apply, BytesWithAScaleAreCloseToTheRows) {
  const DisguiseKey key = key_for(data_, {"disguise.method=rmt", "disguise.store=uint8",
                                          "disguise.insecure_seeded_secrets=true"});
  const DisguisedSetReader set = applied(key, "a.h5");
  EXPECT_EQ(set.info().dtype, Dtype::kU8);
  EXPECT_LT(set.info().offset, 0);
  FreshRandomness fresh;
  std::vector<int64_t> all(kImages);
  for (int64_t i = 0; i < kImages; ++i) all[static_cast<size_t>(i)] = i;
  std::vector<float> wanted = key.transform()->apply(pixels_of(data_, all), fresh).to_vector();
  std::vector<float> found = set.rows(0, kImages).to_vector();
  std::ranges::sort(wanted);
  std::ranges::sort(found);  // all elements, whatever their order
  for (size_t i = 0; i < wanted.size(); i += 97) EXPECT_NEAR(found[i], wanted[i], set.info().scale);
}

TEST_F(Apply, ImagesThatTheKeyIsNotForAreRefused) {
  const DisguiseKey key = key_for(data_, {"disguise.method=rmt"});
  EXPECT_NE(error_of([&] {
              apply_disguise(key, numbered(1), "train", dir_ / "a.h5");
            }).find("[1, 8, 12]"),
            std::string::npos);
  Dataset other = numbered();
  other.class_names[0] = "z";
  EXPECT_NE(
      error_of([&] { apply_disguise(key, other, "train", dir_ / "a.h5"); }).find("other classes"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              apply_disguise(key, numbered(3, 0), "train", dir_ / "a.h5");
            }).find("no images"),
            std::string::npos);
  write_file_atomically(dir_ / "a.h5", "somebody's", false);
  EXPECT_NE(error_of([&] { apply_disguise(key, data_, "train", dir_ / "a.h5"); }).find("already"),
            std::string::npos);
  EXPECT_EQ(read_file(dir_ / "a.h5"), "somebody's");
  EXPECT_NE(
      error_of([&] { apply_disguise(key, data_, "train", dir_ / "absent/a.h5"); }).find("absent"),
      std::string::npos);
}

// Of public code, queries were disguised otherwise than the training images, or not at all.
TEST_F(Apply, QueriesAreDisguisedAsTrainingImagesWere) {
  const DisguiseKey key = key_for(
      data_, {"disguise.method=rmt", "disguise.store=float32", "disguise.permute_labels=true"});
  const DisguisedSetReader set = applied(key, "a.h5");
  DisguisedQueries queries(key, set.info().key_id, set.info().shape, "model.h5");
  Tensor images = pixels_of(data_, {17});
  for (float& pixel : images.span<float>()) pixel /= 255;
  const std::vector<float> sent = queries.disguise(images).to_vector();
  double nearest = 1e9;
  for (int64_t i = 0; i < kImages; ++i) {
    const std::vector<float> row = set.rows(i, 1).to_vector();
    double most = 0;
    for (size_t p = 0; p < row.size(); ++p)
      most = std::max(most, std::abs(static_cast<double>(row[p]) - sent[p]));
    nearest = std::min(nearest, most);
  }
  EXPECT_LT(nearest, 1e-3);
  // A model that is sure of what class 3 is called in its set.
  const std::vector<int32_t> names = key.renamed_classes();
  Tensor logits = Tensor::zeros({1, 5});
  logits.data<float>()[names[3]] = 7;
  EXPECT_EQ(queries.own_classes(logits).to_vector(), (std::vector<float>{0, 0, 0, 7, 0}));
  EXPECT_NE(error_of([&] {
              queries.own_classes(Tensor::zeros({1, 4}));
            }).find("5 classes"),
            std::string::npos);
}

TEST_F(Apply, QueriesForAnotherKeysModelAreRefused) {
  const DisguiseKey key = key_for(data_, {"disguise.method=rmt"}),
                    other = key_for(data_, {"disguise.method=rmt"});
  const Shape row = key.transform()->output_shape();
  const std::string said = error_of([&] { DisguisedQueries(key, other.id(), row, "model.h5"); });
  for (const std::string& part :
       {key.id(), other.id(), std::string("model.h5"), std::string("nothing was sent")}) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  }
  EXPECT_NE(error_of([&] {
              DisguisedQueries(key, key.id(), {3, 9, 9}, "model.h5");
            }).find("[3, 9, 9]"),
            std::string::npos);
}

}  // namespace
}  // namespace ens
