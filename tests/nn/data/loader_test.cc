#include "nn/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "tests/nn/data/files.h"

namespace ens {
namespace {

using namespace test;

constexpr int kHeight = 5, kWidth = 7;

// Image i has label i; no two images share a pixel pattern, and no pixel is 0.
Dataset numbered(int count) {
  Dataset data;
  data.name = "numbered";
  data.channels = 2;
  data.height = kHeight;
  data.width = kWidth;
  for (int i = 0; i < count; ++i) {
    data.labels.push_back(i);
    data.class_names.push_back(std::to_string(i));
    for (int64_t k = 0; k < data.image_size(); ++k) {
      data.pixels.push_back(static_cast<uint8_t>(1 + (i * 31 + k * 3 + k * k) % 255));
    }
  }
  return data;
}

struct Epoch {
  std::vector<int32_t> labels;
  std::vector<float> images;
  std::vector<int64_t> sizes;
  bool operator==(const Epoch&) const = default;
};

Epoch read_epoch(Loader& loader, int64_t epoch) {
  loader.start(epoch);
  Epoch out;
  Batch batch;
  while (loader.next(batch)) {
    EXPECT_EQ(batch.first, static_cast<int64_t>(out.labels.size()));
    EXPECT_EQ(batch.images.dim(0), batch.labels.numel());
    const auto labels = batch.labels.span<int32_t>();
    const auto images = batch.images.span<float>();
    out.labels.insert(out.labels.end(), labels.begin(), labels.end());
    out.images.insert(out.images.end(), images.begin(), images.end());
    out.sizes.push_back(batch.images.dim(0));
  }
  EXPECT_FALSE(loader.next(batch));
  return out;
}

TEST(Loader, VisitsEveryImageOnce) {
  const Dataset data = numbered(23);
  Loader loader(data, {.batch = 5, .drop_last = false});
  EXPECT_EQ(loader.batches(), 5);
  const Epoch epoch = read_epoch(loader, 0);
  EXPECT_EQ(epoch.sizes, (std::vector<int64_t>{5, 5, 5, 5, 3}));
  EXPECT_EQ(std::set<int32_t>(epoch.labels.begin(), epoch.labels.end()).size(), 23u);
  EXPECT_FALSE(std::ranges::is_sorted(epoch.labels));
  for (size_t i = 0; i < epoch.labels.size(); ++i) {
    for (int64_t k = 0; k < data.image_size(); ++k) {
      ASSERT_EQ(epoch.images[i * data.image_size() + k],
                data.pixels[epoch.labels[i] * data.image_size() + k] / 255.0f);
    }
  }
}

TEST(Loader, DropsTheSmallerLastBatch) {
  const Dataset data = numbered(23);
  Loader loader(data, {.batch = 5, .shuffle = false});
  EXPECT_EQ(loader.batches(), 4);
  const Epoch epoch = read_epoch(loader, 0);
  ASSERT_EQ(epoch.labels.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(epoch.labels[i], i);
}

TEST(Loader, EpochDependsOnNothingButSeedAndNumber) {
  const Dataset data = numbered(40);
  LoaderOptions options{.batch = 8, .crop_padding = 2, .flip = true, .seed = 7};
  Loader a(data, options);
  const Epoch zero = read_epoch(a, 0), one = read_epoch(a, 1);
  EXPECT_NE(zero.labels, one.labels);

  // On the caller's thread, out of order, after an epoch that was left in the middle.
  options.prefetch = 0;
  Loader b(data, options);
  b.start(5);
  Batch batch;
  EXPECT_TRUE(b.next(batch));
  EXPECT_EQ(read_epoch(b, 1), one);
  EXPECT_EQ(read_epoch(b, 0), zero);

  options.prefetch = 1;
  Loader c(data, options);
  c.start(3);
  EXPECT_TRUE(c.next(batch));
  EXPECT_EQ(read_epoch(c, 1), one);

  options.seed = 8;
  Loader d(data, options);
  EXPECT_NE(read_epoch(d, 1).labels, one.labels);
}

// What position p of an epoch holds does not depend on the batch size either.
TEST(Loader, AugmentationBelongsToThePosition) {
  const Dataset data = numbered(24);
  Loader a(data, {.batch = 8, .crop_padding = 3, .flip = true});
  Loader b(data, {.batch = 3, .crop_padding = 3, .flip = true});
  const Epoch one = read_epoch(a, 2), other = read_epoch(b, 2);
  EXPECT_EQ(one.labels, other.labels);
  EXPECT_EQ(one.images, other.images);
}

// Every augmented image is a mirrored or plain window of its zero-padded image, and all kinds of
// shift and both orientations occur about equally often.
TEST(Loader, PadCropFlipAgainstNaive) {
  constexpr int kPad = 2, kCount = 1000;
  const Dataset data = numbered(250);
  Loader loader(data, {.batch = 50, .crop_padding = kPad, .flip = true});
  std::map<std::tuple<int, int, bool>, int> seen;
  for (int64_t e = 0; e < kCount / 250; ++e) {
    const Epoch epoch = read_epoch(loader, e);
    for (size_t i = 0; i < epoch.labels.size(); ++i) {
      int matches = 0;
      std::tuple<int, int, bool> match;
      for (int dy = -kPad; dy <= kPad; ++dy) {
        for (int dx = -kPad; dx <= kPad; ++dx) {
          for (const bool flip : {false, true}) {
            bool same = true;
            for (int c = 0; c < 2 && same; ++c) {
              for (int y = 0; y < kHeight && same; ++y) {
                for (int x = 0; x < kWidth && same; ++x) {
                  const int sy = y + dy, sx = (flip ? kWidth - 1 - x : x) + dx;
                  const bool inside = sy >= 0 && sy < kHeight && sx >= 0 && sx < kWidth;
                  const size_t at =
                      ((epoch.labels[i] * size_t{2} + c) * kHeight + sy) * kWidth + sx;
                  const float want = inside ? data.pixels[at] / 255.0f : 0.0f;
                  same = epoch.images[((i * 2 + c) * kHeight + y) * kWidth + x] == want;
                }
              }
            }
            if (same) {
              ++matches;
              match = {dy, dx, flip};
            }
          }
        }
      }
      ASSERT_EQ(matches, 1) << "image " << i;
      ++seen[match];
    }
  }
  EXPECT_EQ(seen.size(), 50u);
  for (const auto& [kind, count] : seen) {  // 20 expected, standard deviation 4.4
    EXPECT_GE(count, 2);
    EXPECT_LE(count, 45);
  }
}

TEST(Loader, BlackAndWhiteAreZeroAndOne) {
  Dataset data = numbered(4);
  std::fill_n(data.pixels.begin(), data.image_size(), uint8_t{255});
  std::fill_n(data.pixels.begin() + data.image_size(), data.image_size(), uint8_t{0});
  Loader loader(data, {.batch = 4, .shuffle = false});
  const Epoch epoch = read_epoch(loader, 0);
  for (int64_t k = 0; k < data.image_size(); ++k) {
    EXPECT_EQ(epoch.images[k], 1.0f);
    EXPECT_EQ(epoch.images[data.image_size() + k], 0.0f);
  }
}

TEST(Loader, ErrorsOfTheThreadReachTheCaller) {
  for (const int prefetch : {0, 2}) {
    Dataset data = numbered(20);
    Loader loader(data, {.batch = 5, .prefetch = prefetch});
    const Epoch good = read_epoch(loader, 0);
    const Bytes pixels = std::exchange(data.pixels, {});  // the set changes under the loader
    loader.start(1);
    Batch batch;
    for (int i = 0; i < 2; ++i) {  // it stays broken rather than looking finished
      EXPECT_TRUE(caught([&] { loader.next(batch); }).has("0 pixels for 20 images"));
    }
    data.pixels = pixels;
    EXPECT_EQ(read_epoch(loader, 0), good);
  }
}

TEST(Loader, MayBeDroppedAtAnyTime) {
  const Dataset data = numbered(64);
  Batch batch;
  for (int i = 0; i < 50; ++i) {
    Loader loader(data, {.batch = 1, .prefetch = 2});
    if (i % 5 == 0) continue;
    loader.start(i);
    for (int k = 0; k < i % 5; ++k) EXPECT_TRUE(loader.next(batch));
    if (i % 2) loader.start(i + 1);
  }
}

TEST(Loader, RefusesImpossibleOptions) {
  const Dataset data = numbered(10);
  const auto refused = [&](const LoaderOptions& options) {
    const Caught error = caught([&] { Loader loader(data, options); });
    EXPECT_EQ(error.kind, Error::Kind::kUsage) << error.text;
    return error;
  };
  EXPECT_TRUE(refused({.batch = 11}).has("10 images do not fill one batch of 11"));
  refused({.batch = 0});
  refused({.batch = 2, .crop_padding = -1});
  refused({.batch = 2, .crop_padding = 6});
  refused({.batch = 2, .prefetch = -1});
  Loader loader(data, {.batch = 5});
  Batch batch;
  EXPECT_TRUE(caught([&] { loader.next(batch); }).has("before start"));
}

// Row i is [i, i + 0.5] and has label i. Notes which chunks are read in each batch.
class NumberedRows : public RowSource {
 public:
  NumberedRows(int64_t count, int64_t chunk, int64_t open)
      : count_(count), chunk_(chunk), open_(open) {}
  std::string name() const override { return "numbered rows"; }
  int64_t count() const override { return count_; }
  int64_t chunk() const override { return chunk_; }
  int64_t open_chunks() const override { return open_; }
  Batch read(std::span<const LoadedRow> rows) override {
    if (fails) throw std::runtime_error("the disk is gone");
    Batch batch{Tensor::empty({std::ssize(rows), 2}),
                Tensor::empty({std::ssize(rows)}, Dtype::kI32)};
    for (int64_t i = 0; i < std::ssize(rows); ++i) {
      const int64_t row = rows[static_cast<size_t>(i)].row;
      batch.images.data<float>()[2 * i] = static_cast<float>(row);
      batch.images.data<float>()[2 * i + 1] = static_cast<float>(row) + 0.5f;
      batch.labels.data<int32_t>()[i] = static_cast<int32_t>(row);
      if (chunk_ > 0 && (opened.empty() || !std::ranges::count(opened, row / chunk_))) {
        opened.push_back(row / chunk_);
      }
    }
    return batch;
  }

  bool fails = false;
  std::vector<int64_t> opened;  // chunks in the order of their first use

 private:
  const int64_t count_, chunk_, open_;
};

TEST(LoaderOfRows, VisitsEveryRowOnceInAnOrderOfItsOwnForEachEpoch) {
  for (const int64_t open : {1, 3, 100}) {
    NumberedRows rows(103, 10, open);
    Loader loader(rows, {.batch = 8, .drop_last = false, .seed = 3});
    const Epoch first = read_epoch(loader, 0), second = read_epoch(loader, 1);
    EXPECT_NE(first.labels, second.labels);
    for (const Epoch& epoch : {first, second}) {
      EXPECT_EQ(std::set(epoch.labels.begin(), epoch.labels.end()).size(), 103u);
      ASSERT_EQ(epoch.images.size(), 206u);
      for (size_t i = 0; i < 103; ++i) {
        EXPECT_EQ(epoch.images[2 * i], static_cast<float>(epoch.labels[i]));
        EXPECT_EQ(epoch.images[2 * i + 1], static_cast<float>(epoch.labels[i]) + 0.5f);
      }
    }
    NumberedRows again_rows(103, 10, open);
    Loader again(again_rows, {.batch = 8, .drop_last = false, .seed = 3, .prefetch = 0});
    EXPECT_EQ(read_epoch(again, 1), second);
  }
}

// The 31st to the 60th row of an epoch come from three other chunks than the first thirty.
TEST(LoaderOfRows, NeedsNoMoreChunksAtATimeThanTheSourceAllows) {
  NumberedRows rows(240, 10, 3);
  Loader loader(rows, {.batch = 10, .seed = 5});
  const Epoch epoch = read_epoch(loader, 0);
  std::set<int64_t> before;
  bool mixed = false;
  for (size_t first = 0; first < 240; first += 30) {
    std::set<int64_t> chunks;
    for (size_t i = first; i < first + 30; ++i) chunks.insert(epoch.labels[i] / 10);
    EXPECT_EQ(chunks.size(), 3u);
    for (const int64_t chunk : chunks) EXPECT_TRUE(before.insert(chunk).second) << chunk;
    mixed |= epoch.labels[first] / 10 != epoch.labels[first + 1] / 10;
  }
  EXPECT_TRUE(mixed);
  std::vector<int64_t> sorted = rows.opened;
  std::ranges::sort(sorted);
  EXPECT_NE(rows.opened, sorted) << "the chunks come in the file's order";
}

// A set of few chunks is read in the very order of a data set in memory.
TEST(LoaderOfRows, FewChunksAreMixedAsADataSet) {
  NumberedRows rows(24, 10, 3);
  const Dataset data = numbered(24);
  Loader of_rows(rows, {.batch = 6, .seed = 9}), of_images(data, {.batch = 6, .seed = 9});
  EXPECT_EQ(read_epoch(of_rows, 4).labels, read_epoch(of_images, 4).labels);
}

TEST(LoaderOfRows, RefusesAugmentationAndTellsOfErrors) {
  NumberedRows rows(24, 0, 1);
  EXPECT_THROW(Loader(rows, {.batch = 6, .crop_padding = 1}), Error);
  EXPECT_THROW(Loader(rows, {.batch = 6, .flip = true}), Error);
  EXPECT_THROW(Loader(rows, {.batch = 25}), Error);
  rows.fails = true;
  Loader loader(rows, {.batch = 6});
  loader.start(0);
  Batch batch;
  EXPECT_THROW(loader.next(batch), std::runtime_error);
}

TEST(Loader, ImagesAndLabelsOfARange) {
  const Dataset data = numbered(10);
  const Tensor images = images_of(data, 3, 4);
  EXPECT_EQ(images.shape(), (Shape{4, 2, kHeight, kWidth}));
  for (int64_t i = 0; i < images.numel(); ++i) {
    EXPECT_EQ(images.data<float>()[i], data.pixels[3 * data.image_size() + i] / 255.0f);
  }
  const Tensor labels = labels_of(data, 3, 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(labels.data<int32_t>()[i], 3 + i);
  EXPECT_TRUE(caught([&] { images_of(data, 8, 3); }).has("8+3"));
  EXPECT_TRUE(caught([&] { labels_of(data, -1, 3); }).has("10 images"));
}

}  // namespace
}  // namespace ens
