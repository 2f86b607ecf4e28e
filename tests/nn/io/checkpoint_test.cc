// SPDX-License-Identifier: Apache-2.0
// Checkpoints: what goes in comes out, other tools read it, and nothing damaged or hostile passes.
#include "nn/io/checkpoint.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <openssl/evp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "base/error.h"
#include "base/strings.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "tests/support/temp_dir.h"

// HDF5 1.10 leaks memory when it meets damaged metadata; the leak checker is for our own code.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace ens {
namespace {

namespace fs = std::filesystem;

std::string sha256_hex(const void* data, size_t size) {
  unsigned char out[32];
  unsigned length = 0;
  EVP_Digest(data, size, out, &length, EVP_sha256(), nullptr);
  return to_hex(std::string(reinterpret_cast<char*>(out), length));
}

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

// The recipe of the header for the first 512 bytes: what an attacker or another program would do.
std::string stamped(std::string bytes) {
  const std::string block = "ensembler checkpoint 1\nbytes " + std::to_string(bytes.size()) +
                            "\nsha256 " + sha256_hex(bytes.data() + 512, bytes.size() - 512) + "\n";
  std::memset(bytes.data(), 0, 512);
  std::memcpy(bytes.data(), block.data(), block.size());
  return bytes;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

bool same(const Checkpoint& a, const Checkpoint& b) {
  if (a.kind != b.kind || a.texts != b.texts || a.numbers != b.numbers) return false;
  if (a.tensors.size() != b.tensors.size()) return false;
  for (const auto& [name, tensor] : a.tensors) {
    auto found = b.tensors.find(name);
    if (found == b.tensors.end() || !same(tensor, found->second)) return false;
  }
  return true;
}

Tensor filled(const Shape& shape, Dtype dtype, uint64_t seed) {
  Tensor t = Tensor::empty(shape, dtype);
  Rng rng(seed);
  auto* bytes = static_cast<unsigned char*>(t.raw());
  for (size_t i = 0; i < t.bytes(); ++i) bytes[i] = static_cast<unsigned char>(rng.next());
  return t;
}

Checkpoint small() {
  Checkpoint c;
  c.kind = "cloud";
  c.texts["fingerprint"] = std::string("\0\x01\xff\0 ends in NULs\0\0", 20);
  c.texts["empty"] = "";
  c.texts["config"] = "model { width: 16 }\n";
  c.numbers["epoch"] = 7;
  c.numbers["lowest"] = INT64_MIN;
  c.tensors["net0/conv.weight"] = filled({4, 3, 3, 3}, Dtype::kF32, 1);
  c.tensors["net0/block/bn.mean"] = filled({5}, Dtype::kBF16, 2);
  c.tensors["noise"] = filled({2, 2}, Dtype::kF16, 3);
  return c;
}

class CheckpointTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  void SetUp() override {
    folder_ = temp_.path();
    file_ = folder_ / "a.h5";
  }

  std::string read_error() {
    return error_of([&] { read_checkpoint(file_, "cloud"); });
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  // A well-formed checkpoint made by hand with HDF5, for `spoil` to make hostile.
  void craft(const std::function<void(hid_t file)>& spoil) {
    const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(creation, 512);
    const hid_t file = H5Fcreate(file_.c_str(), H5F_ACC_TRUNC, creation, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    put_text(file, "kind", "cloud");
    for (const char* group : {"/texts", "/numbers", "/tensors"}) {
      H5Gclose(H5Gcreate2(file, group, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    }
    spoil(file);
    if (H5Aexists(file, "checksum") == 0) put_text(file, "checksum", std::string(64, '0'));
    H5Pclose(creation);
    H5Fclose(file);
    spill(file_, stamped(slurp(file_)));
  }
  static void put_text(hid_t object, const char* name, const std::string& value) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, value.size() + 1);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value.c_str());
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
  }
  static void put_data(hid_t file, const char* name, hid_t type, std::vector<hsize_t> dims,
                       hid_t properties = H5P_DEFAULT, const char* dtype = "float32") {
    const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
    const hid_t data = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(data, 0);
    put_text(data, "dtype", dtype);
    put_text(data, "sha256", std::string(64, '0'));
    H5Dclose(data);
    H5Sclose(space);
  }

  fs::path folder_, file_;
};

TEST_F(CheckpointTest, WhatGoesInComesOut) {
  Checkpoint c = small();
  for (Dtype dtype :
       {Dtype::kF32, Dtype::kBF16, Dtype::kF16, Dtype::kU8, Dtype::kI8, Dtype::kI32}) {
    c.tensors[std::string("every/") + name(dtype)] = filled({3, 1, 2}, dtype, 9);
  }
  c.tensors["scalar"] = filled(Shape{}, Dtype::kF32, 4);
  c.tensors["none"] = Tensor::empty({0, 3});
  c.tensors["six"] = filled({1, 2, 1, 2, 1, 2}, Dtype::kI32, 5);
  c.tensors["large"] = filled({300, 1000}, Dtype::kF32, 6);
  c.texts["long"] = std::string(200000, 'x');
  for (int i = 0; i < 300; ++i) {
    c.numbers["number " + std::to_string(i)] = i;
    c.tensors["many/" + std::to_string(i) + ".weight"] = filled({2}, Dtype::kF32, 100 + i);
  }
  write_checkpoint(file_, c, false);
  const Checkpoint read = read_checkpoint(file_, "cloud");
  EXPECT_TRUE(same(read, c));
  EXPECT_EQ(read.file, file_.string());
  EXPECT_EQ(files(), 1u);
  EXPECT_TRUE(same(read_checkpoint(file_, ""), c)) << "an empty kind accepts any";
}

TEST_F(CheckpointTest, EmptyCheckpoint) {
  write_checkpoint(file_, Checkpoint{}, false);
  EXPECT_TRUE(same(read_checkpoint(file_, ""), Checkpoint{}));
}

TEST_F(CheckpointTest, LayoutsAreWrittenPlain) {
  Checkpoint c;
  Tensor plain = filled({2, 8, 3, 3}, Dtype::kU8, 1).to(Dtype::kF32);
  c.tensors["x"] = plain.with_layout(Layout::kChannelsLast);
  write_checkpoint(file_, c, false);
  EXPECT_TRUE(same(read_checkpoint(file_, "").tensor("x"), plain));
}

TEST_F(CheckpointTest, OtherProgramsCanReadIt) {
  const Checkpoint c = small();
  write_checkpoint(file_, c, false);
  const hid_t file = H5Fopen(file_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t data = H5Dopen2(file, "/tensors/net0/conv.weight", H5P_DEFAULT);
  ASSERT_GE(data, 0);
  std::vector<float> values(4 * 3 * 3 * 3);
  ASSERT_GE(H5Dread(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  const Tensor& tensor = c.tensor("net0/conv.weight");
  EXPECT_EQ(std::memcmp(values.data(), tensor.raw(), tensor.bytes()), 0);

  const hid_t attribute = H5Aopen(data, "sha256", H5P_DEFAULT);
  const hid_t type = H5Aget_type(attribute);
  std::string sum(H5Tget_size(type), '?');
  H5Aread(attribute, type, sum.data());
  EXPECT_STREQ(sum.c_str(), sha256_hex(values.data(), 4 * values.size()).c_str());
  H5Tclose(type);
  H5Aclose(attribute);
  H5Dclose(data);
  H5Fclose(file);
}

TEST_F(CheckpointTest, SameContentIsTheSameFile) {
  write_checkpoint(file_, small(), false);
  write_checkpoint(folder_ / "b.h5", small(), false);
  EXPECT_EQ(slurp(file_), slurp(folder_ / "b.h5"));
}

TEST_F(CheckpointTest, PermissionsDoNotDependOnTheUmask) {
  for (mode_t mask : {0000, 0077}) {
    const mode_t before = umask(mask);
    write_checkpoint(file_, small(), true);
    write_checkpoint(folder_ / "b.h5", small(), false);
    umask(before);
    struct stat info {};
    ASSERT_EQ(stat(file_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    ASSERT_EQ(stat((folder_ / "b.h5").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0644u);
  }
}

TEST_F(CheckpointTest, MissingEntriesAreNamed) {
  write_checkpoint(file_, small(), false);
  const Checkpoint c = read_checkpoint(file_, "cloud");
  EXPECT_EQ(c.number("epoch"), 7);
  for (const std::string& text :
       {error_of([&] { c.text("absent"); }), error_of([&] { c.number("absent"); }),
        error_of([&] { c.tensor("absent"); })}) {
    EXPECT_NE(text.find("absent"), std::string::npos) << text;
    EXPECT_NE(text.find(file_.string()), std::string::npos) << text;
  }
}

TEST_F(CheckpointTest, AnotherKindIsRefused) {
  write_checkpoint(file_, small(), false);
  const std::string text = error_of([&] { read_checkpoint(file_, "edge"); });
  EXPECT_NE(text.find("'cloud'"), std::string::npos) << text;
  EXPECT_NE(text.find("'edge'"), std::string::npos) << text;
}

TEST_F(CheckpointTest, WhatIsNoCheckpointIsRefused) {
  EXPECT_NE(read_error().find("No such file"), std::string::npos) << read_error();
  spill(file_, "");
  EXPECT_NE(read_error().find("empty"), std::string::npos) << read_error();
  spill(file_, std::string(5000, 'x'));
  EXPECT_NE(read_error().find("not a checkpoint"), std::string::npos) << read_error();
  const hid_t file = H5Fcreate(file_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  EXPECT_NE(read_error().find("not a checkpoint"), std::string::npos) << read_error();
  fs::remove(file_);
  fs::create_directory(file_);
  EXPECT_NE(read_error().find("not a file"), std::string::npos) << read_error();
}

TEST_F(CheckpointTest, EveryTruncationIsRefused) {
  write_checkpoint(file_, small(), false);
  const std::string whole = slurp(file_);
  for (size_t size = 0; size < whole.size(); size += size < 600 ? 1 : 61) {
    spill(file_, whole.substr(0, size));
    EXPECT_NE(read_error().find(file_.string()), std::string::npos) << size;
  }
  spill(file_, whole + '\0');
  EXPECT_NE(read_error().find("length"), std::string::npos) << read_error();
}

TEST_F(CheckpointTest, FlippedBytesAreRefused) {
  write_checkpoint(file_, small(), false);
  const std::string whole = slurp(file_);
  Rng rng(1);
  for (size_t i = 0; i < whole.size(); i += i < 200 ? 1 : 1 + rng.below(8)) {
    std::string bad = whole;
    bad[i] = static_cast<char>(bad[i] ^ (1 << rng.below(8)));
    spill(file_, bad);
    EXPECT_NE(read_error(), "") << "byte " << i;
  }
}

// Whoever changes a byte and repairs the first lines meets the checksums inside.
TEST_F(CheckpointTest, FlipsBehindARepairedUserBlockNeverChangeContent) {
  const Checkpoint original = small();
  write_checkpoint(file_, original, false);
  const std::string whole = slurp(file_);
  Rng rng(2);
  int refused = 0;
  for (size_t i = 512; i < whole.size(); i += 1 + rng.below(4)) {
    std::string bad = whole;
    bad[i] = static_cast<char>(bad[i] ^ (1 << rng.below(8)));
    spill(file_, stamped(bad));
    try {
      EXPECT_TRUE(same(read_checkpoint(file_, "cloud"), original)) << "byte " << i;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST_F(CheckpointTest, ADamagedTensorIsNamed) {
  const Checkpoint original = small();
  write_checkpoint(file_, original, false);
  std::string bytes = slurp(file_);
  const Tensor& tensor = original.tensor("net0/conv.weight");
  const size_t at = bytes.find(std::string(static_cast<char*>(tensor.raw()), tensor.bytes()));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 10] ^= 1;
  spill(file_, stamped(bytes));
  EXPECT_NE(read_error().find("net0/conv.weight"), std::string::npos) << read_error();
  EXPECT_NE(read_error().find("SHA-256"), std::string::npos) << read_error();
}

TEST_F(CheckpointTest, SwappedTensorsAreFound) {
  Checkpoint c;
  c.kind = "cloud";
  c.tensors["first"] = filled({3}, Dtype::kF32, 1);
  c.tensors["other"] = filled({3}, Dtype::kF32, 2);
  write_checkpoint(file_, c, false);
  const hid_t file = H5Fopen(file_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Lmove(file, "/tensors/first", file, "/tensors/x", H5P_DEFAULT, H5P_DEFAULT);
  H5Lmove(file, "/tensors/other", file, "/tensors/first", H5P_DEFAULT, H5P_DEFAULT);
  H5Lmove(file, "/tensors/x", file, "/tensors/other", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  spill(file_, stamped(slurp(file_)));
  EXPECT_NE(read_error().find("checksum"), std::string::npos) << read_error();
}

TEST_F(CheckpointTest, HostileFilesAreRefusedWithoutTakingMemory) {
  struct Case {
    const char* what;
    std::function<void(hid_t)> spoil;
    const char* expected;
  };
  auto properties = [](auto set) {
    const hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    set(p);
    return p;
  };
  const std::vector<Case> cases = {
      {"petabytes without storage",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {1u << 20, 1u << 30},
                  properties([](hid_t p) { H5Pset_alloc_time(p, H5D_ALLOC_TIME_LATE); }));
       },
       "larger than the file"},
      {"a product that overflows",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {1000, 1000, 1000, 1000, 1000, 1000},
                  properties([](hid_t p) { H5Pset_alloc_time(p, H5D_ALLOC_TIME_LATE); }));
       },
       "larger than the file"},
      {"no storage at all",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {3},
                  properties([](hid_t p) { H5Pset_alloc_time(p, H5D_ALLOC_TIME_LATE); }));
       },
       "do not agree"},
      {"chunks (compression bombs)",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {64}, properties([](hid_t p) {
                    const hsize_t chunk = 64;
                    H5Pset_chunk(p, 1, &chunk);
                  }));
       },
       "one piece"},
      {"data in another file",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {2},
                  properties([](hid_t p) { H5Pset_external(p, "/etc/hostname", 0, 8); }));
       },
       "one piece"},
      {"a link to another file",
       [&](hid_t f) {
         H5Lcreate_external("/etc/hostname", "/x", f, "/tensors/x", H5P_DEFAULT, H5P_DEFAULT);
       },
       "not allowed"},
      {"a soft link",
       [&](hid_t f) { H5Lcreate_soft("/tensors", f, "/tensors/x", H5P_DEFAULT, H5P_DEFAULT); },
       "not allowed"},
      {"a group that holds itself many times",
       [&](hid_t f) {
         for (int i = 0; i < 20; ++i) {
           H5Lcreate_hard(f, "/tensors", f, ("/tensors/" + std::to_string(i)).c_str(), H5P_DEFAULT,
                          H5P_DEFAULT);
         }
       },
       "tensors"},
      {"one data set under many names",
       [&](hid_t f) {
         const hid_t type = H5T_IEEE_F32LE;
         const hsize_t dims[] = {4096};
         const hid_t space = H5Screate_simple(1, dims, nullptr);
         const hid_t data =
             H5Dcreate2(f, "/tensors/x", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
         const std::vector<float> zeros(4096);
         H5Dwrite(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data());
         put_text(data, "dtype", "float32");
         put_text(data, "sha256", sha256_hex(zeros.data(), 4 * zeros.size()));
         H5Dclose(data);
         H5Sclose(space);
         for (int i = 0; i < 50; ++i) {
           H5Lcreate_hard(f, "/tensors/x", f, ("/tensors/" + std::to_string(i)).c_str(),
                          H5P_DEFAULT, H5P_DEFAULT);
         }
       },
       "larger than the file"},
      {"the wrong type", [&](hid_t f) { put_data(f, "/tensors/x", H5T_IEEE_F64LE, {2}); },
       "not float32"},
      {"an unknown dtype",
       [&](hid_t f) { put_data(f, "/tensors/x", H5T_IEEE_F32LE, {2}, H5P_DEFAULT, "float80"); },
       "float80"},
      {"too many dimensions",
       [&](hid_t f) {
         put_data(f, "/tensors/x", H5T_IEEE_F32LE, {1, 1, 1, 1, 1, 1, 1});
       },
       "shape"},
      {"a type instead of a tensor",
       [&](hid_t f) {
         const hid_t type = H5Tcopy(H5T_NATIVE_INT);
         H5Tcommit2(f, "/tensors/x", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
         H5Tclose(type);
       },
       "neither"},
      {"no texts", [&](hid_t f) { H5Ldelete(f, "/texts", H5P_DEFAULT); }, "texts"},
      {"a number that is none",
       [&](hid_t f) {
         const hid_t group = H5Gopen2(f, "/numbers", H5P_DEFAULT);
         put_text(group, "epoch", "seven");
         H5Gclose(group);
       },
       "epoch"},
      {"a text of variable length",
       [&](hid_t f) {
         const hid_t group = H5Gopen2(f, "/texts", H5P_DEFAULT);
         const hid_t type = H5Tcopy(H5T_C_S1);
         H5Tset_size(type, H5T_VARIABLE);
         const hid_t space = H5Screate(H5S_SCALAR);
         const hid_t attribute = H5Acreate2(group, "config", type, space, H5P_DEFAULT, H5P_DEFAULT);
         const char* value = "text";
         H5Awrite(attribute, type, &value);
         H5Aclose(attribute);
         H5Sclose(space);
         H5Tclose(type);
         H5Gclose(group);
       },
       "config"},
      {"a checksum that is wrong", [](hid_t) {}, "checksum"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    craft(c.spoil);
    const std::string text = read_error();
    EXPECT_NE(text.find(c.expected), std::string::npos) << text;
    EXPECT_NE(text.find(file_.string()), std::string::npos) << text;
  }
}

TEST_F(CheckpointTest, NamesThatCannotBeStoredAreRefusedAndTheOldFileStays) {
  write_checkpoint(file_, small(), false);
  const std::string before = slurp(file_);
  for (const char* bad : {"", "/a", "a/", "a//b", "./a", "a/../b", "noise/x"}) {
    Checkpoint c = small();
    c.tensors[bad] = filled({2}, Dtype::kF32, 1);
    EXPECT_NE(error_of([&] { write_checkpoint(file_, c, false); }), "") << bad;
  }
  Checkpoint c = small();
  c.tensors["unset"] = Tensor();
  EXPECT_NE(error_of([&] { write_checkpoint(file_, c, false); }).find("unset"), std::string::npos);
  EXPECT_EQ(slurp(file_), before);
  EXPECT_EQ(files(), 1u);
}

TEST_F(CheckpointTest, MissingFolderIsNamed) {
  const std::string text =
      error_of([&] { write_checkpoint(folder_ / "absent" / "a.h5", small(), false); });
  EXPECT_NE(text.find("absent"), std::string::npos) << text;
  EXPECT_NE(text.find("create it"), std::string::npos) << text;
}

// A file size limit stands for a full disk: write() stores a part and then fails.
TEST_F(CheckpointTest, FullDiskKeepsTheOldFile) {
  write_checkpoint(file_, small(), true);
  const std::string before = slurp(file_);
  Checkpoint large = small();
  large.tensors["large"] = filled({100000}, Dtype::kF32, 1);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100000, 100000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::string text = error_of([&] { write_checkpoint(file_, large, true); });
    _exit(text.find("cannot write") != std::string::npos &&
                  text.find(file_.string()) != std::string::npos
              ? 0
              : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(slurp(file_), before);
  EXPECT_EQ(files(), 1u) << "the temporary file was left behind";
  EXPECT_TRUE(same(read_checkpoint(file_, "cloud"), small()));
}

TEST_F(CheckpointTest, ReadersSeeWholeFilesWhileOthersWrite) {
  Checkpoint a = small(), b = small();
  b.tensors["large"] = filled({20000}, Dtype::kF32, 1);
  write_checkpoint(file_, a, false);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        try {
          if (t < 2) {
            write_checkpoint(file_, i % 2 ? a : b, false);
          } else {
            const Checkpoint c = read_checkpoint(file_, "cloud");
            if (!same(c, a) && !same(c, b)) ++wrong;
          }
        } catch (const Error&) {
          ++wrong;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(files(), 1u);
}

TEST(Digest, DependsOnNamesShapesTypesAndContent) {
  const Tensor x = filled({2, 8, 1, 2}, Dtype::kU8, 1).to(Dtype::kF32);
  const std::string base = digest({{"a", x}});
  EXPECT_EQ(base.size(), 32u);
  EXPECT_EQ(digest({{"a", x.clone()}}), base);
  EXPECT_EQ(digest({{"a", x.with_layout(Layout::kChannelsLast)}}), base);
  EXPECT_NE(digest({{"b", x}}), base);
  EXPECT_NE(digest({{"a", x.reshape({2, 16})}}), base);
  EXPECT_NE(digest({{"a", x}, {"b", x}}), base);
  Tensor changed = x.clone();
  static_cast<unsigned char*>(changed.raw())[3] ^= 1;
  EXPECT_NE(digest({{"a", changed}}), base);
  const Tensor zeros = Tensor::zeros({4}, Dtype::kF16);
  EXPECT_NE(digest({{"a", zeros}}), digest({{"a", Tensor::zeros({4}, Dtype::kBF16)}}));
}

TEST(Digest, IsSha256OfTheDocumentedBytes) {
  EXPECT_EQ(to_hex(digest({})), sha256_hex("", 0));
  EXPECT_EQ(to_hex(digest({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace ens
