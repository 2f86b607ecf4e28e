// SPDX-License-Identifier: Apache-2.0
// The disguised set: what goes in comes out, h5py reads it, and nothing damaged, hostile or
// half-written passes.
#include "disguise/set/set.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/hash.h"
#include "base/strings.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "nn/io/checkpoint.h"
#include "tests/support/errors.h"
#include "tests/support/peers.h"
#include "tests/support/temp_dir.h"

// HDF5 1.10 leaks memory when it meets damaged metadata; the leak checker is for our own code.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::error_of;

constexpr int64_t kRows = 600;  // two whole chunks and a part

DisguisedSetInfo facts(Dtype dtype = Dtype::kF16, int64_t rows = kRows) {
  DisguisedSetInfo info;
  info.method = "rmt";
  info.settings = "method: \"rmt\"\n";
  info.shape = {3, 4, 5};
  info.dtype = dtype;
  info.rows = rows;
  info.classes = 10;
  info.key_id = "00112233445566ff";
  info.set_id = "8899aabbccddeeff";
  info.split = "train";
  info.marks = {"insecure_seeded_secrets", "second"};
  if (dtype == Dtype::kU8) info.scale = 3.5f, info.offset = -300;
  return info;
}

// Values that every dtype keeps nearly: -250 to 500.
Tensor random_rows(int64_t count) {
  Tensor rows = Tensor::empty({count, 3, 4, 5});
  Rng(7).fill_uniform(rows.span<float>(), -250.0f, 500.0f);
  return rows;
}

std::vector<int32_t> random_labels(int64_t count) {
  std::vector<int32_t> labels(static_cast<size_t>(count));
  Rng rng(8);
  for (int32_t& label : labels) label = static_cast<int32_t>(rng.below(10));
  return labels;
}

void write_set(const fs::path& file, const DisguisedSetInfo& info) {
  DisguisedSetWriter writer(file, info);
  writer.add(random_rows(info.rows), random_labels(info.rows));
  writer.finish();
}

// The first block anew, as somebody would who means harm.
void stamp(const fs::path& file) {
  std::string bytes = read_file(file);
  const std::string block = "ensembler checkpoint 1\nbytes " + std::to_string(bytes.size()) +
                            "\nsha256 " + to_hex(sha256(bytes.data() + 512, bytes.size() - 512)) +
                            "\n";
  std::memset(bytes.data(), 0, 512);
  std::memcpy(bytes.data(), block.data(), block.size());
  std::ofstream(file, std::ios::binary) << bytes;
}

class DisguisedSet : public ::testing::Test {
 protected:
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_.path()), {}));
  }
  // A whole set that was then changed through HDF5 and got a right first block: what opening it
  // says.
  std::string error_after(const std::function<void(hid_t)>& change, Dtype dtype = Dtype::kF32) {
    const fs::path file = folder_ / "changed.h5";
    fs::remove(file);
    write_set(file, facts(dtype));
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    const hid_t hdf5 = H5Fopen(file.c_str(), H5F_ACC_RDWR, access);
    change(hdf5);
    H5Fclose(hdf5);
    H5Pclose(access);
    stamp(file);
    return error_of([&] { DisguisedSetReader reader(file); });
  }
  // The exit code of a child that does this with files of at most `bytes`.
  int in_child(rlim_t bytes, const std::function<int()>& body) {
    const pid_t child = fork();
    if (child == 0) {
      set_compute_threads(1);  // the team did not come along
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{bytes, bytes};
      setrlimit(RLIMIT_FSIZE, &limit);
      std::exit(body());  // with HDF5's own clean-up
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
  }

  test::TempDir folder_;
  fs::path file_ = folder_ / "set.h5";
};

// Labels of mixtures are shares of the classes.
TEST_F(DisguisedSet, SoftLabelsComeBackAndBadOnesAreRefused) {
  DisguisedSetInfo info = facts(Dtype::kF32, 300);
  info.soft_labels = true;
  Tensor shares = Tensor::empty({300, 10});
  Rng(9).fill_uniform(shares.span<float>(), 0.0f, 0.1f);
  {
    DisguisedSetWriter writer(folder_ / "soft.h5", info);
    writer.add(random_rows(200), shares.rows(0, 200));
    EXPECT_NE(
        error_of([&] { writer.add(random_rows(100), random_labels(100)); }).find("another kind"),
        std::string::npos);
    Tensor bad = shares.rows(0, 100).clone();
    for (const float v : {-0.1f, 1.5f, std::nanf("")}) {
      bad.data<float>()[7] = v;
      EXPECT_NE(error_of([&] { writer.add(random_rows(100), bad); }).find("no share"),
                std::string::npos);
    }
    EXPECT_NE(error_of([&] {
                writer.add(random_rows(100), Tensor::zeros({100, 9}));
              }).find("do not fit"),
              std::string::npos);
    EXPECT_NE(error_of([&] { writer.finish(); }).find("of its 300 rows"), std::string::npos);
    writer.add(random_rows(100), shares.rows(200, 100));
    writer.finish();
  }
  const DisguisedSetReader reader(folder_ / "soft.h5");
  EXPECT_TRUE(reader.info().soft_labels);
  for (size_t row = 0; row < 300; ++row) {
    const float* own = shares.data<float>() + row * 10;
    EXPECT_EQ(reader.labels()[row], std::max_element(own, own + 10) - own);
  }
  EXPECT_EQ(reader.soft_labels().to_vector(), shares.to_vector());
  write_set(folder_ / "hard.h5", facts());
  const DisguisedSetReader hard(folder_ / "hard.h5");
  EXPECT_FALSE(hard.info().soft_labels);
  EXPECT_FALSE(hard.soft_labels().defined());
  // Of a file that somebody changed: out of range, and too few.
  const auto replaced = [&](hsize_t rows, float value) {
    return error_after([&](hid_t hdf5) {
      const hsize_t dims[] = {rows, 10};
      const hid_t space = H5Screate_simple(2, dims, nullptr);
      const hid_t data =
          H5Dcreate2(hdf5, "/y_soft", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      const std::vector<float> values(static_cast<size_t>(rows * 10), value);
      H5Dwrite(data, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
      H5Dclose(data);
      H5Sclose(space);
    });
  };
  EXPECT_NE(replaced(kRows, 7).find("no share"), std::string::npos);
  EXPECT_NE(replaced(kRows - 1, 0.1f).find("another type or shape"), std::string::npos);
}

TEST_F(DisguisedSet, WhatGoesInComesOut) {
  const Tensor rows = random_rows(kRows);
  const std::vector<int32_t> labels = random_labels(kRows);
  for (const Dtype dtype : {Dtype::kF16, Dtype::kF32, Dtype::kU8}) {
    SCOPED_TRACE(name(dtype));
    const fs::path file = folder_ / (std::string(name(dtype)) + ".h5");
    const DisguisedSetInfo info = facts(dtype);
    {
      DisguisedSetWriter writer(file, info);
      for (int64_t at = 0, piece = 1; at < kRows;
           at += piece, piece = std::min(kRows - at, 2 * piece + 1)) {
        writer.add(rows.rows(at, piece),
                   std::span(labels).subspan(static_cast<size_t>(at), static_cast<size_t>(piece)));
        EXPECT_FALSE(fs::exists(file)) << "only a whole set has its name";
      }
      writer.finish();
    }
    const DisguisedSetReader reader(file);
    EXPECT_EQ(reader.info().method, info.method);
    EXPECT_EQ(reader.info().settings, info.settings);
    EXPECT_EQ(reader.info().shape, info.shape);
    EXPECT_EQ(reader.info().dtype, dtype);
    EXPECT_EQ(reader.info().rows, kRows);
    EXPECT_EQ(reader.info().classes, 10);
    EXPECT_EQ(reader.info().key_id, info.key_id);
    EXPECT_EQ(reader.info().set_id, info.set_id);
    EXPECT_EQ(reader.info().split, "train");
    EXPECT_EQ(reader.info().marks, info.marks);
    EXPECT_EQ(reader.labels(), labels);
    const float step = dtype == Dtype::kF32 ? 0.0f : dtype == Dtype::kF16 ? 0.126f : 1.76f;
    for (const auto& [first, count] :
         {std::pair{0, 600}, {0, 1}, {250, 10}, {255, 300}, {599, 1}, {10, 0}}) {
      const Tensor got = reader.rows(first, count);
      ASSERT_EQ(got.shape(), (Shape{count, 3, 4, 5}));
      for (int64_t i = 0; i < got.numel(); ++i) {
        const float wanted = rows.data<float>()[first * 60 + i];
        const float saturated = dtype == Dtype::kU8 ? std::clamp(wanted, -300.0f, 592.5f) : wanted;
        ASSERT_NEAR(got.data<float>()[i], saturated, step) << first << " " << i;
      }
    }
    // The facts are those of what a reader sees.
    const Tensor all = reader.rows(0, kRows);
    for (int64_t c = 0; c < 3; ++c) {
      double sum = 0, square = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = 0; i < 20; ++i) {
          const double value = all.data<float>()[(r * 3 + c) * 20 + i];
          sum += value;
          square += value * value;
        }
      }
      const double mean = sum / (kRows * 20);
      EXPECT_NEAR(reader.info().mean[static_cast<size_t>(c)], mean, 1e-3);
      EXPECT_NEAR(reader.info().stddev[static_cast<size_t>(c)],
                  std::sqrt(square / (kRows * 20) - mean * mean), 1e-3);
    }
  }
}

TEST_F(DisguisedSet, H5pyReadsIt) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kF32, Dtype::kU8}) {
    const fs::path file = folder_ / (std::string(name(dtype)) + ".h5");
    write_set(file, facts(dtype));
    ENS_PYTHON_OR_SKIP(outcome, "tests/disguise/read_set.py", {file.string()});
    ASSERT_EQ(outcome.code, 0) << outcome.out;
    const nlohmann::json found = nlohmann::json::parse(outcome.out);
    EXPECT_EQ(found["kind"], "disguised-set");
    EXPECT_EQ(found["version"], 1);
    EXPECT_EQ(found["method"], "rmt");
    EXPECT_EQ(found["key_id"], "00112233445566ff");
    EXPECT_EQ(found["marks"], "insecure_seeded_secrets\nsecond");
    EXPECT_EQ(found["classes"], 10);
    EXPECT_EQ(found["dtype"], name(dtype));
    EXPECT_EQ(found["shape"], (std::vector<int64_t>{kRows, 3, 4, 5}));
    const DisguisedSetReader reader(file);
    EXPECT_EQ(found["labels"].get<std::vector<int32_t>>(), reader.labels());
    const auto same = [&](const char* what, int64_t row) {
      const std::vector<double> wanted = found[what];
      const std::vector<float> got = reader.rows(row, 1).to_vector();
      ASSERT_EQ(got.size(), wanted.size());
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-3) << what << i;
    };
    same("first", 0);
    same("last", kRows - 1);
  }
}

// Negative values of a transform once wrapped around in public code, and large ones became
// infinite.
TEST_F(DisguisedSet, ElementsSaturateAndNeverWrap) {
  const auto stored = [&](Dtype dtype, float value) {
    DisguisedSetInfo info = facts(dtype, 1);
    info.scale = 1;
    info.offset = 0;
    const fs::path file = folder_ / "one.h5";
    fs::remove(file);
    DisguisedSetWriter writer(file, info);
    writer.add(Tensor::full({1, 3, 4, 5}, value), std::vector<int32_t>{0});
    writer.finish();
    return DisguisedSetReader(file).rows(0, 1).to_vector()[0];
  };
  EXPECT_EQ(stored(Dtype::kU8, -3.0f), 0);
  EXPECT_EQ(stored(Dtype::kU8, 256.0f), 255);
  EXPECT_EQ(stored(Dtype::kU8, 254.4f), 254);
  EXPECT_EQ(stored(Dtype::kF16, 1e6f), 65504);
  EXPECT_EQ(stored(Dtype::kF16, -1e6f), -65504);
}

TEST_F(DisguisedSet, ImpossibleFactsAreRefusedBeforeAFileIsMade) {
  const auto refused = [&](auto change) {
    DisguisedSetInfo info = facts();
    change(info);
    const std::string said = error_of([&] { DisguisedSetWriter writer(file_, info); });
    EXPECT_EQ(files(), 0u);
    return said;
  };
  EXPECT_NE(refused([](auto& i) { i.rows = 0; }).find("at least one row"), std::string::npos);
  EXPECT_NE(refused([](auto& i) { i.classes = 1; }).find("two classes"), std::string::npos);
  EXPECT_NE(refused([](auto& i) { i.shape = {3, 0, 5}; }).find("shape"), std::string::npos);
  EXPECT_NE(refused([](auto& i) { i.dtype = Dtype::kI32; }).find("int32"), std::string::npos);
  EXPECT_NE(refused([](auto& i) { i.scale = NAN; }).find("scale"), std::string::npos);
}

TEST_F(DisguisedSet, BadRowsAreRefused) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kF32, Dtype::kU8}) {
    DisguisedSetWriter writer(file_, facts(dtype, 2));
    Tensor row = random_rows(1);
    EXPECT_NE(error_of([&] { writer.add(row, std::vector<int32_t>{10}); }).find("label"),
              std::string::npos);
    EXPECT_NE(error_of([&] { writer.add(row, std::vector<int32_t>{-1}); }).find("label"),
              std::string::npos);
    EXPECT_NE(error_of([&] {
                writer.add(random_rows(3), std::vector<int32_t>{0, 0, 0});
              }).find("more rows"),
              std::string::npos);
    EXPECT_NE(error_of([&] { writer.finish(); }).find("0 of its 2 rows"), std::string::npos);
    row.data<float>()[17] = std::nanf("");
    EXPECT_NE(error_of([&] { writer.add(row, std::vector<int32_t>{0}); }).find("not finite"),
              std::string::npos)
        << name(dtype);
  }
  EXPECT_EQ(files(), 0u);
}

TEST_F(DisguisedSet, OneOfTwoWritersOfOneFileIsRefused) {
  DisguisedSetWriter first(file_, facts()), second(file_, facts());
  first.add(random_rows(kRows), random_labels(kRows));
  second.add(random_rows(kRows), random_labels(kRows));
  first.finish();
  const std::string bytes = read_file(file_);
  EXPECT_NE(error_of([&] { second.finish(); }).find("a file of this name already"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              DisguisedSetWriter third(file_, facts());
            }).find("a file of this name already"),
            std::string::npos);
  EXPECT_EQ(read_file(file_), bytes);
}

// A file size limit stands for a full disk, wherever it is met.
TEST_F(DisguisedSet, FullDiskLeavesNothingBehind) {
  write_set(file_, facts());
  const auto size = fs::file_size(file_);
  fs::remove(file_);
  for (const uintmax_t bytes : {uintmax_t{100}, uintmax_t{20000}, size / 2, size - 700, size - 1}) {
    const int status = in_child(bytes, [&] {
      try {
        write_set(file_, facts());
      } catch (const Error& error) {
        const std::string text = error.what();
        if (text.find(file_.string()) != std::string::npos &&
            text.find("File too large") != std::string::npos)
          return 0;
        std::fprintf(stderr, "%s\n", error.what());
      }
      return 1;
    });
    EXPECT_EQ(status, 0) << bytes;
    EXPECT_EQ(files(), 0u) << bytes;
  }
}

TEST_F(DisguisedSet, AKilledWriterLeavesNoSet) {
  const pid_t child = fork();
  if (child == 0) {
    set_compute_threads(1);
    DisguisedSetWriter writer(file_, facts());
    writer.add(random_rows(kRows), random_labels(kRows));
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(fs::exists(file_));
  write_set(file_, facts());  // and what it left is in nobody's way
  EXPECT_EQ(DisguisedSetReader(file_).info().rows, kRows);
}

TEST_F(DisguisedSet, DamagedFilesAreNamed) {
  write_set(file_, facts());
  const std::string bytes = read_file(file_);
  const auto error_with = [&](const std::string& changed) {
    const fs::path file = folder_ / "damaged.h5";
    std::ofstream(file, std::ios::binary) << changed;
    const std::string text = error_of([&] { DisguisedSetReader reader(file); });
    EXPECT_NE(text.find(file.string()), std::string::npos) << text;
    return text;
  };
  EXPECT_NE(error_with("").find("empty"), std::string::npos);
  EXPECT_NE(error_with(bytes.substr(0, bytes.size() - 1)).find("cut off"), std::string::npos);
  EXPECT_NE(error_with("no set at all").find("not a"), std::string::npos);
  for (const size_t at : {size_t{600}, bytes.size() / 2, bytes.size() - 1}) {
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    EXPECT_NE(error_with(flipped).find("damaged"), std::string::npos) << at;
  }
  EXPECT_NE(error_of([&] { DisguisedSetReader reader(folder_ / "absent.h5"); }).find("absent.h5"),
            std::string::npos);
  Checkpoint edge;
  edge.kind = "edge";
  write_checkpoint(folder_ / "edge.h5", edge, false);
  EXPECT_NE(error_of([&] { DisguisedSetReader reader(folder_ / "edge.h5"); }).find("'edge' file"),
            std::string::npos);
}

void set_attribute(hid_t file, const char* name, hid_t type, const void* value) {
  const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, type, value), 0);
  H5Aclose(attribute);
}

template <typename T>
void set_element(hid_t file, const char* name, hid_t type, hsize_t index, T value) {
  const hid_t data = H5Dopen2(file, name, H5P_DEFAULT);
  const hid_t space = H5Dget_space(data);
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> dims(static_cast<size_t>(rank)), at(dims.size());
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  for (size_t axis = dims.size(); axis-- > 0; index /= dims[axis]) at[axis] = index % dims[axis];
  H5Sselect_elements(space, H5S_SELECT_SET, 1, at.data());
  const hid_t scalar = H5Screate(H5S_SCALAR);
  ASSERT_GE(H5Dwrite(data, type, scalar, space, H5P_DEFAULT, &value), 0);
  H5Sclose(scalar);
  H5Sclose(space);
  H5Dclose(data);
}

// The first block is right, so what is wrong has to be seen in the content.
TEST_F(DisguisedSet, HostileContentIsRefused) {
  const int64_t two = 2, one = 1, many = int64_t{1} << 40;
  EXPECT_NE(error_after([&](hid_t f) {
              set_attribute(f, "version", H5T_STD_I64LE, &two);
            }).find("newer version"),
            std::string::npos);
  EXPECT_NE(error_after([&](hid_t f) {
              set_attribute(f, "classes", H5T_STD_I64LE, &one);
            }).find("two classes"),
            std::string::npos);
  EXPECT_NE(error_after([&](hid_t f) {
              set_attribute(f, "classes", H5T_STD_I64LE, &many);
            }).find("classes"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              set_element(f, "/y", H5T_STD_I32LE, 500, int32_t{10});
            }).find("label"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              set_element(f, "/y", H5T_STD_I32LE, 500, int32_t{-1});
            }).find("label"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              set_element(f, "/x", H5T_IEEE_F32LE, 599 * 60, std::nanf(""));
            }).find("not finite"),
            std::string::npos);
  EXPECT_NE(
      error_after([](hid_t f) { set_element(f, "/x", H5T_IEEE_F32LE, 7, HUGE_VALF); }, Dtype::kF16)
          .find("not finite"),
      std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              const float zeros[3] = {1, 0, 1};
              set_attribute(f, "stddev", H5T_IEEE_F32LE, zeros);
            }).find("deviation"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              const int64_t shape[3] = {3, 5, 4};
              set_attribute(f, "shape", H5T_STD_I64LE, shape);
            }).find("rows"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) { H5Ldelete(f, "/y", H5P_DEFAULT); }).find("there is no /y"),
            std::string::npos);
  EXPECT_NE(error_after([](hid_t f) { H5Adelete(f, "mean"); }).find("missing"), std::string::npos);
  // Rows that say more than the file holds, of another byte order, or that lie in another file.
  const auto replace = [](hid_t f, hid_t type, hsize_t rows, const char* elsewhere) {
    H5Ldelete(f, "/x", H5P_DEFAULT);
    const hsize_t dims[4] = {rows, 3, 4, 5}, chunk[4] = {256, 3, 4, 5};
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE),
                space = H5Screate_simple(4, dims, nullptr);
    if (elsewhere) {
      H5Pset_external(properties, elsewhere, 0, H5F_UNLIMITED);
    } else {
      H5Pset_chunk(properties, 4, chunk);
    }
    H5Dclose(H5Dcreate2(f, "/x", type, space, H5P_DEFAULT, properties, H5P_DEFAULT));
  };
  EXPECT_NE(error_after([&](hid_t f) {
              replace(f, H5T_IEEE_F32LE, hsize_t{1} << 40, nullptr);
            }).find("size"),
            std::string::npos);
  EXPECT_NE(
      error_after([&](hid_t f) { replace(f, H5T_IEEE_F32BE, 600, nullptr); }).find("little-endian"),
      std::string::npos);
  EXPECT_NE(
      error_after([&](hid_t f) { replace(f, H5T_IEEE_F32LE, 600, "/etc/passwd"); }).find("rows"),
      std::string::npos);
  EXPECT_NE(error_after([](hid_t f) {
              H5Ldelete(f, "/y", H5P_DEFAULT);
              H5Lcreate_external("/etc/passwd", "/y", f, "/y", H5P_DEFAULT, H5P_DEFAULT);
            }).find("/y"),
            std::string::npos);
}

TEST_F(DisguisedSet, AFlippedChunkIsSeenWhenItIsRead) {
  write_set(file_, facts(Dtype::kF32));
  {
    const hid_t hdf5 = H5Fopen(file_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    set_element(hdf5, "/x", H5T_IEEE_F32LE, 300 * 60, 1.0f);
    H5Fclose(hdf5);
  }
  stamp(file_);
  const DisguisedSetReader reader(file_);
  EXPECT_EQ(reader.rows(0, 256).dim(0), 256);
  EXPECT_NE(error_of([&] { reader.rows(300, 1); }).find("rows 256 and on"), std::string::npos);
  EXPECT_EQ(reader.rows(512, 88).dim(0), 88);
}

}  // namespace
}  // namespace ens
