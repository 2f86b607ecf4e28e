#include "nn/data/dataset.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "tests/nn/data/files.h"

namespace ens {
namespace {

using namespace test;

DataOptions at(const fs::path& root, const std::string& name) {
  DataOptions options;
  options.name = name;
  options.root = root;
  return options;
}

class Cifar10 : public testing::Test {
 protected:
  void SetUp() override { write_cifar10(dir / "cifar10"); }
  // The error of loading the training split, which must name the file and the mending command.
  Caught broken(const std::string& file) {
    const Caught error = caught([&] { load_dataset(options, DataSplit::kTrain); });
    EXPECT_TRUE(error.has((dir / "cifar10" / file).string())) << error.text;
    EXPECT_TRUE(error.has("ensembler data get cifar10 --data " + dir.path().string()))
        << error.text;
    EXPECT_EQ(error.kind, Error::Kind::kFailure);
    return error;
  }
  TempDir dir;
  DataOptions options = at(dir.path(), "cifar10");
};

TEST_F(Cifar10, ReadsEveryRecordInOrder) {
  EXPECT_TRUE(dataset_present(options));
  const Dataset train = load_dataset(options, DataSplit::kTrain);
  const Dataset test = load_dataset(options, DataSplit::kTest);
  ASSERT_EQ(train.count(), 10);
  ASSERT_EQ(test.count(), 2);
  ASSERT_EQ(train.image_size(), 3072);
  ASSERT_EQ(train.pixels.size(), 30720u);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(train.labels[i], (1 + i / 2 + i % 2) % 10);
    for (int k = 0; k < 3072; ++k) {
      ASSERT_EQ(train.pixels[i * 3072 + k], cifar_pixel(1 + i / 2, i % 2, k));
    }
  }
  EXPECT_EQ(test.labels, (std::vector<int32_t>{0, 1}));
  ASSERT_EQ(train.class_names.size(), 10u);
  EXPECT_EQ(train.class_names[9], "truck");
}

TEST_F(Cifar10, StatisticsAreThoseOfTheWholeTrainingSplit) {
  options.limit = 3;
  const Dataset train = load_dataset(options, DataSplit::kTrain);
  const Dataset test = load_dataset(options, DataSplit::kTest);
  EXPECT_EQ(train.count(), 3);
  EXPECT_EQ(test.count(), 2);
  EXPECT_EQ(train.mean, test.mean);
  EXPECT_EQ(train.stddev, test.stddev);
  ASSERT_EQ(train.mean.size(), 3u);
  for (int c = 0; c < 3; ++c) {
    std::vector<double> values;
    for (int file = 1; file <= 5; ++file) {
      for (int r = 0; r < 2; ++r) {
        for (int k = 0; k < 1024; ++k) values.push_back(cifar_pixel(file, r, c * 1024 + k) / 255.0);
      }
    }
    double mean = 0, variance = 0;
    for (const double v : values) mean += v / values.size();
    for (const double v : values) variance += (v - mean) * (v - mean) / values.size();
    EXPECT_NEAR(train.mean[c], mean, 1e-6);
    EXPECT_NEAR(train.stddev[c], std::sqrt(variance), 1e-6);
  }
}

TEST_F(Cifar10, AcceptsTheOfficialFolderName) {
  fs::rename(dir / "cifar10", dir / "cifar-10-batches-bin");
  EXPECT_TRUE(dataset_present(options));
  EXPECT_EQ(load_dataset(options, DataSplit::kTrain).count(), 10);
}

TEST_F(Cifar10, NamesMissingFile) {
  fs::remove(dir / "cifar10" / "data_batch_4.bin");
  EXPECT_FALSE(dataset_present(options));
  EXPECT_TRUE(broken("data_batch_4.bin").has("missing"));
}

TEST_F(Cifar10, NamesFileThatIsCutOff) {
  fs::resize_file(dir / "cifar10" / "data_batch_2.bin", 6000);
  EXPECT_TRUE(broken("data_batch_2.bin").has("6000 bytes, not a whole number of 3073-byte"));
}

TEST_F(Cifar10, NamesEmptyFile) {
  fs::resize_file(dir / "cifar10" / "data_batch_5.bin", 0);
  EXPECT_TRUE(broken("data_batch_5.bin").has("0 bytes"));
}

TEST_F(Cifar10, NamesRecordWithWrongLabel) {
  Bytes bytes = cifar_batch(3, 2, 10, 1);
  bytes[3073] = 10;
  write_file(dir / "cifar10" / "data_batch_3.bin", bytes);
  EXPECT_TRUE(broken("data_batch_3.bin").has("label 10 of record 1 is out of range (0 to 9)"));
}

TEST_F(Cifar10, WantsAllClassNames) {
  write_text(dir / "cifar10" / "batches.meta.txt", "airplane\nbird\n");
  EXPECT_TRUE(broken("batches.meta.txt").has("2 classes, not 10"));
}

TEST_F(Cifar10, ResizesOnRequest) {
  Bytes bytes(3073, 0);
  for (int i = 0; i < 1024; ++i) {  // red: a checkerboard of 0 and 200; green: 40; blue: 0
    bytes[1 + i] = (i / 32 + i) % 2 ? 200 : 0;
    bytes[1025 + i] = 40;
  }
  write_file(dir / "cifar10" / "test_batch.bin", bytes);
  options.image_size = 16;
  const Dataset data = load_dataset(options, DataSplit::kTest);
  ASSERT_EQ(data.height, 16);
  ASSERT_EQ(data.width, 16);
  ASSERT_EQ(data.pixels.size(), 768u);
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(data.pixels[i], 100);  // area average
    EXPECT_EQ(data.pixels[256 + i], 40);
    EXPECT_EQ(data.pixels[512 + i], 0);
  }
}

TEST(Cifar100, ReadsFineLabels) {
  const TempDir dir;
  std::string names;
  for (int i = 0; i < 100; ++i) names += "class" + std::to_string(i) + "\n";
  write_file(dir / "cifar-100-binary" / "train.bin", cifar_batch(42, 3, 100, 2));
  write_file(dir / "cifar-100-binary" / "test.bin", cifar_batch(97, 2, 100, 2));
  write_text(dir / "cifar-100-binary" / "fine_label_names.txt", names);
  const DataOptions options = at(dir.path(), "cifar100");
  EXPECT_TRUE(dataset_present(options));
  EXPECT_EQ(load_dataset(options, DataSplit::kTrain).labels, (std::vector<int32_t>{42, 43, 44}));
  const Dataset test = load_dataset(options, DataSplit::kTest);
  EXPECT_EQ(test.labels, (std::vector<int32_t>{97, 98}));
  EXPECT_EQ(test.class_names[98], "class98");
  EXPECT_EQ(test.pixels[3072 + 5], cifar_pixel(97, 1, 5));
}

class Mnist : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 3 * 4 * 5; ++i) values.push_back(static_cast<uint8_t>(i * 4));
    write_file(folder / "train-images-idx3-ubyte", idx({3, 4, 5}, values));
    write_file(folder / "train-labels-idx1-ubyte", idx({3}, {7, 0, 9}));
    // The test split is packed.
    write_file(folder / "t10k-images-idx3-ubyte.gz", gzip(idx({2, 4, 5}, Bytes(40, 255))));
    write_file(folder / "t10k-labels-idx1-ubyte.gz", gzip(idx({2}, {1, 2})));
  }
  Caught broken(DataSplit split, const std::string& file) {
    const Caught error = caught([&] { load_dataset(options, split); });
    EXPECT_TRUE(error.has((folder / file).string())) << error.text;
    EXPECT_TRUE(error.has("ensembler data get mnist")) << error.text;
    return error;
  }
  TempDir dir;
  fs::path folder = dir / "mnist";
  DataOptions options = at(dir.path(), "mnist");
  Bytes values;
};

TEST_F(Mnist, ReadsPlainAndPacked) {
  EXPECT_TRUE(dataset_present(options));
  const Dataset train = load_dataset(options, DataSplit::kTrain);
  EXPECT_EQ(train.labels, (std::vector<int32_t>{7, 0, 9}));
  EXPECT_EQ(train.pixels, values);
  EXPECT_EQ(train.channels, 1);
  EXPECT_EQ(train.height, 4);
  EXPECT_EQ(train.width, 5);
  const Dataset test = load_dataset(options, DataSplit::kTest);
  EXPECT_EQ(test.labels, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(test.pixels, Bytes(40, 255));
  EXPECT_EQ(test.mean, train.mean);
  EXPECT_NEAR(test.mean[0], 118.0 / 255, 1e-6);  // of 0, 4, .. 236
  EXPECT_EQ(test.class_names[9], "9");
}

TEST_F(Mnist, FashionHasItsOwnNames) {
  fs::rename(folder, dir / "fashion_mnist");
  options.name = "fashion_mnist";
  EXPECT_EQ(load_dataset(options, DataSplit::kTest).class_names[9], "Ankle boot");
}

TEST_F(Mnist, NamesMissingFile) {
  fs::remove(folder / "train-labels-idx1-ubyte");
  EXPECT_FALSE(dataset_present(options));
  EXPECT_TRUE(broken(DataSplit::kTrain, "train-labels-idx1-ubyte").has("missing"));
}

TEST_F(Mnist, NamesWrongHeader) {
  write_file(folder / "train-images-idx3-ubyte", idx({3, 20}, values));
  EXPECT_TRUE(broken(DataSplit::kTrain, "train-images-idx3-ubyte").has("idx file of 3-dim"));
  write_text(folder / "train-images-idx3-ubyte", "x");
  EXPECT_TRUE(broken(DataSplit::kTrain, "train-images-idx3-ubyte").has("idx file of 3-dim"));
}

TEST_F(Mnist, NamesWrongSize) {
  write_file(folder / "train-images-idx3-ubyte", idx({4, 4, 5}, values));
  EXPECT_TRUE(
      broken(DataSplit::kTrain, "train-images-idx3-ubyte").has("4x4x5 values, the file holds 60"));
  // A header whose product wraps around must not pass.
  write_file(folder / "train-images-idx3-ubyte", idx({0x80000000u, 0x80000000u, 4}, Bytes{}));
  broken(DataSplit::kTrain, "train-images-idx3-ubyte");
}

TEST_F(Mnist, NamesWrongNumberOfLabels) {
  write_file(folder / "train-labels-idx1-ubyte", idx({2}, {7, 0}));
  EXPECT_TRUE(broken(DataSplit::kTrain, "train-labels-idx1-ubyte").has("2 labels for the 3"));
}

TEST_F(Mnist, NamesLabelOutOfRange) {
  write_file(folder / "train-labels-idx1-ubyte", idx({3}, {7, 0, 11}));
  EXPECT_TRUE(broken(DataSplit::kTrain, "train-labels-idx1-ubyte").has("label 11 of record 2"));
}

TEST_F(Mnist, NamesPackedFileThatIsCutOff) {
  const fs::path file = folder / "t10k-labels-idx1-ubyte.gz";
  const auto whole = fs::file_size(file);
  for (const auto size : {whole - 1, whole - 9, whole - 12, uintmax_t{11}}) {
    write_file(file, gzip(idx({2}, {1, 2})));
    fs::resize_file(file, size);
    const Caught error = broken(DataSplit::kTest, "t10k-labels-idx1-ubyte.gz");
    EXPECT_TRUE(error.has("cut off")) << size << ": " << error.text;
  }
}

TEST_F(Mnist, NamesDamagedPackedFile) {
  Bytes bytes = gzip(idx({2}, {1, 2}));
  bytes[bytes.size() - 8] ^= 1;  // the stored CRC
  write_file(folder / "t10k-labels-idx1-ubyte.gz", bytes);
  EXPECT_TRUE(broken(DataSplit::kTest, "t10k-labels-idx1-ubyte.gz").has("damaged"));
}

TEST(Dataset, HeadAndPick) {
  Dataset data;
  data.name = "x";
  data.channels = 1;
  data.height = 1;
  data.width = 2;
  data.pixels = {0, 1, 10, 11, 20, 21};
  data.labels = {5, 6, 7};
  data.mean = {0.5f};
  const Dataset head = data.head(2);
  EXPECT_EQ(head.labels, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(head.pixels, (Bytes{0, 1, 10, 11}));
  EXPECT_EQ(head.mean, data.mean);
  EXPECT_EQ(data.head(99).count(), 3);
  const Dataset picked = data.pick({2, 0, 2});
  EXPECT_EQ(picked.labels, (std::vector<int32_t>{7, 5, 7}));
  EXPECT_EQ(picked.pixels, (Bytes{20, 21, 0, 1, 20, 21}));
  EXPECT_TRUE(caught([&] { data.pick({3}); }).has("image 3"));
}

TEST(Dataset, UnknownNameAndBadNumbersAreUsageErrors) {
  DataOptions options;
  options.name = "cifar";
  Caught error = caught([&] { load_dataset(options, DataSplit::kTrain); });
  EXPECT_EQ(error.kind, Error::Kind::kUsage);
  EXPECT_TRUE(error.has("cifar10, cifar100, mnist"));
  EXPECT_EQ(caught([&] { dataset_present(options); }).kind, Error::Kind::kUsage);
  options.name = "shapes";
  options.limit = -1;
  EXPECT_EQ(caught([&] { load_dataset(options, DataSplit::kTrain); }).kind, Error::Kind::kUsage);
  options.limit = 0;
  options.image_size = 100000;
  EXPECT_EQ(caught([&] { load_dataset(options, DataSplit::kTrain); }).kind, Error::Kind::kUsage);
}

// Sets or clears (nullopt) a variable, and puts it back.
class Variable {
 public:
  Variable(const char* name, std::optional<std::string> value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    assign(value);
  }
  ~Variable() { assign(old_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void assign(const std::optional<std::string>& value) {
    if (value) {
      setenv(name_, value->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  const char* name_;
  std::optional<std::string> old_;
};

TEST(DataRoot, GivenThenVariableThenCache) {
  const Variable home("HOME", "/home/x");
  const Variable cache("XDG_CACHE_HOME", "/c");
  const Variable data("ENS_DATA", "/d");
  EXPECT_EQ(data_root("/g"), "/g");
  EXPECT_EQ(data_root(""), "/d");
  {
    const Variable unset("ENS_DATA", std::nullopt);
    EXPECT_EQ(data_root(""), "/c/ensembler-data");
    const Variable no_cache("XDG_CACHE_HOME", std::nullopt);
    EXPECT_EQ(data_root(""), "/home/x/.cache/ensembler-data");
    const Variable no_home("HOME", std::nullopt);
    EXPECT_TRUE(caught([] { data_root(""); }).has("ENS_DATA"));
  }
}

// The published statistics of the real sets, where they are at hand.
struct Known {
  const char* name;
  int64_t train, test;
  std::vector<float> mean, stddev;
};

void PrintTo(const Known& known, std::ostream* out) { *out << known.name; }

class RealSet : public testing::TestWithParam<Known> {};

TEST_P(RealSet, HasThePublishedStatistics) {
  const Known& known = GetParam();
  DataOptions options;
  options.name = known.name;
  if (!std::getenv("ENS_DATA") || !dataset_present(options)) {
    GTEST_SKIP() << known.name << " is not in $ENS_DATA";
  }
  const Dataset test = load_dataset(options, DataSplit::kTest);
  if (test.count() != known.test) GTEST_SKIP() << known.name << " is only a part of the set";
  for (size_t c = 0; c < known.mean.size(); ++c) {
    EXPECT_NEAR(test.mean[c], known.mean[c], 1e-4);
    EXPECT_NEAR(test.stddev[c], known.stddev[c], 1e-4);
  }
  EXPECT_EQ(load_dataset(options, DataSplit::kTrain).count(), known.train);
}

INSTANTIATE_TEST_SUITE_P(
    Official, RealSet,
    testing::Values(
        Known{"cifar10", 50000, 10000, {0.4914f, 0.4822f, 0.4465f}, {0.2470f, 0.2435f, 0.2616f}},
        Known{"cifar100", 50000, 10000, {0.5071f, 0.4865f, 0.4409f}, {0.2673f, 0.2564f, 0.2762f}},
        Known{"mnist", 60000, 10000, {0.1307f}, {0.3081f}},
        Known{"fashion_mnist", 60000, 10000, {0.2860f}, {0.3530f}}),
    [](const auto& set) { return std::string(set.param.name); });

}  // namespace
}  // namespace ens
