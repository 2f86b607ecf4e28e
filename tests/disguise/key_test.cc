// SPDX-License-Identifier: Apache-2.0
// The owner's key: what is derived from it, its file, and the law of its matrices.
#include "disguise/key/key.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <numbers>
#include <numeric>

#include "base/files.h"
#include "base/strings.h"
#include "disguise/key/secret_tensor.h"
#include "nn/io/checkpoint.h"
#include "proto/config.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::error_of;

DisguiseConfig settings(const std::vector<std::string>& overrides) {
  RunConfig config;
  apply_overrides(overrides, config);
  complete(config);
  return config.disguise();
}

DisguisedImages images(int channels = 3, int height = 32, int width = 32) {
  return {{channels, height, width}, "crop", {"cat", "dog", "horse", "ship", "truck"}};
}

Tensor gradient_images(const DisguisedImages& of, int64_t count = 3) {
  Tensor out = Tensor::empty(batched(count, of.shape.shape()));
  for (int64_t i = 0; i < out.numel(); ++i) out.data<float>()[i] = static_cast<float>(i * 37 % 256);
  return out;
}

DisguiseKey make(const std::vector<std::string>& overrides, const DisguisedImages& of = images(),
                 uint64_t seed = 1) {
  const DisguiseConfig chosen = settings(overrides);
  const bool measured = chosen.method() != "none" && DisguiseKey::samples_needed(chosen) > 0;
  return DisguiseKey::make(
      chosen, of, seed,
      measured ? KeySamples{gradient_images(of, 8), gradient_images(of, 4)} : KeySamples{});
}

Tensor transformed(const DisguiseKey& key, const Tensor& batch) {
  FreshRandomness fresh(Seed{1});
  return key.transform()->apply(batch, fresh);
}

// The matrices of a key for one-channel images and square blocks of n: an image of unit matrices
// comes out as them.
std::vector<Eigen::MatrixXd> matrices_of(const DisguiseKey& key, int n) {
  const ImageShape shape = key.images().shape;
  Tensor units = Tensor::zeros({1, 1, shape.height, shape.width});
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x) units.data<float>()[y * shape.width + x] = y % n == x % n;
  }
  const Tensor out = transformed(key, units);
  std::vector<Eigen::MatrixXd> found;
  for (int top = 0; top < shape.height; top += n) {
    for (int left = 0; left < shape.width; left += n) {
      Eigen::MatrixXd m(n, n);
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) m(i, j) = out.data<float>()[(top + i) * shape.width + left + j];
      }
      found.push_back(m);
    }
  }
  return found;
}

// The largest distance between the values' distribution and this one, times sqrt(n): above 1.95
// once in 1,000 times.
double kolmogorov_smirnov(std::vector<double> values,
                          const std::function<double(double)>& distribution) {
  std::ranges::sort(values);
  const auto n = static_cast<double>(values.size());
  double most = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double f = distribution(values[i]);
    most = std::max({most, f - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - f});
  }
  return most * std::sqrt(n);
}

const std::vector<std::string> kSeeded = {"disguise.method=rmt",
                                          "disguise.insecure_seeded_secrets=true"};

std::vector<std::string> seeded(std::vector<std::string> more) {
  more.insert(more.begin(), kSeeded.begin(), kSeeded.end());
  return more;
}

TEST(OrthogonalMatrices, AreUniformlyDistributed) {
  const auto found = matrices_of(make(kSeeded, images(1, 160, 160)), 4);
  ASSERT_EQ(found.size(), 1600u);
  std::vector<double> corners, last;
  double sum = 0, squares = 0, trace_of_square = 0;
  int turns = 0;
  for (const Eigen::MatrixXd& m : found) {
    EXPECT_LT((m.transpose() * m - Eigen::MatrixXd::Identity(4, 4)).cwiseAbs().maxCoeff(), 1e-6);
    corners.push_back(m(0, 0));
    last.push_back(m(3, 3));
    sum += m.sum();
    squares += m.cwiseAbs2().sum();
    trace_of_square += (m * m).trace();
    turns += m.determinant() > 0;
  }
  EXPECT_NEAR(sum / (16 * 1600), 0, 5 * 0.5 / std::sqrt(16 * 1600.0));
  EXPECT_NEAR(squares / (16 * 1600), 0.25, 1e-6);
  EXPECT_NEAR(turns, 800, 5 * 20);
  // E tr(M^2) = 1 for the Haar measure (Diaconis and Shahshahani 1994); without the signs of R it
  // is another.
  EXPECT_NEAR(trace_of_square / 1600, 1, 5 * 2 / std::sqrt(1600.0));
  // An element of a uniform point of the sphere in 4 dimensions has the density 2/pi sqrt(1 - x^2).
  const auto sphere = [](double x) {
    return 0.5 + (x * std::sqrt(std::max(0.0, 1 - x * x)) + std::asin(std::clamp(x, -1.0, 1.0))) /
                     std::numbers::pi;
  };
  EXPECT_LT(kolmogorov_smirnov(corners, sphere), 1.95);
  EXPECT_LT(kolmogorov_smirnov(last, sphere), 1.95);
}

// A turn of the plane, half of all orthogonal 2 x 2 matrices, has the eigenvalues exp(+-i angle),
// its angle uniform.
TEST(OrthogonalMatrices, EigenvalueAnglesAreUniform) {
  std::vector<double> angles;
  for (const Eigen::MatrixXd& m :
       matrices_of(make(seeded({"disguise.rmt.block=2x2"}), images(1, 80, 80)), 2)) {
    if (m.determinant() > 0)
      angles.push_back(std::abs(std::arg(Eigen::EigenSolver<Eigen::MatrixXd>(m).eigenvalues()[0])));
  }
  EXPECT_GT(angles.size(), 700u);
  EXPECT_LT(kolmogorov_smirnov(angles, [](double angle) { return angle / std::numbers::pi; }),
            1.95);
}

TEST(GaussianMatrices, HaveABoundedConditionNumber) {
  std::vector<double> elements;
  for (const Eigen::MatrixXd& m :
       matrices_of(make(seeded({"disguise.rmt.matrix=gaussian", "disguise.rmt.block=8x8"}),
                        images(1, 160, 160)),
                   8)) {
    const Eigen::VectorXd values = Eigen::JacobiSVD<Eigen::MatrixXd>(m).singularValues();
    EXPECT_LE(values[0] / values[7], 100.1);
    elements.push_back(m(3, 5));
  }
  EXPECT_LT(kolmogorov_smirnov(elements,
                               [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }),
            1.95);
  EXPECT_NE(error_of([] {
              make(seeded({"disguise.rmt.matrix=gaussian", "disguise.rmt.side=full",
                           "disguise.rmt.block=8x8"}));
            }).find("use orthogonal"),
            std::string::npos);
}

const std::vector<std::vector<std::string>> kMethods = {
    {"disguise.method=identity"},
    {"disguise.method=noise", "disguise.sigma=0.2"},
    {"disguise.method=dp", "disguise.dp.cell=8"},
    {"disguise.method=rmt"},
    {"disguise.method=rmt", "disguise.rmt.permute=true", "disguise.rmt.noise=25",
     "disguise.rmt.side=left", "disguise.rmt.block=8x8"},
    {"disguise.method=rmt", "disguise.rmt.side=full", "disguise.rmt.share=all",
     "disguise.rmt.block=7x7"},
    {"disguise.method=aes"},
    {"disguise.method=aes", "disguise.aes.unit=2x1", "disguise.aes.keys=position",
     "disguise.aes.key_bits=256"},
    {"disguise.method=aesctr", "disguise.permute_labels=true"},
    {"disguise.method=neuracrypt", "disguise.neuracrypt.width=24"},
    {"disguise.method=instahide"},
    {"disguise.method=instahide", "disguise.instahide.mix=cross",
     "disguise.instahide.public_data=cifar100"},
    {"disguise.method=neuracrypt", "disguise.neuracrypt.depth=-1", "disguise.neuracrypt.patch=8"},
};

TEST(DisguiseKeys, EveryMethodComesBackFromItsFile) {
  const test::TempDir dir;
  int i = 0;
  for (const auto& overrides : kMethods) {
    SCOPED_TRACE(join(overrides));
    const DisguiseKey key = make(overrides);
    const fs::path file = dir / (std::to_string(i++) + ".key");
    key.write(file);
    struct stat info {};
    ASSERT_EQ(::stat(file.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    const DisguiseKey read = DisguiseKey::read(file);
    EXPECT_EQ(read.id(), key.id());
    EXPECT_EQ(read.id().size(), 16u);
    EXPECT_EQ(to_text(read.settings()), to_text(key.settings()));
    EXPECT_EQ(read.images().shape, key.images().shape);
    EXPECT_EQ(read.images().class_names, key.images().class_names);
    EXPECT_EQ(read.images().fit, "crop");
    EXPECT_EQ(read.renamed_classes(), key.renamed_classes());
    EXPECT_EQ(read.derived_bytes(), key.derived_bytes());
    const Tensor batch = gradient_images(images());
    EXPECT_EQ(transformed(read, batch).to_vector(), transformed(key, batch).to_vector());
    // The settings name no other method's.
    EXPECT_EQ(to_text(key.settings()).find("rmt") != std::string::npos, key.method() == "rmt");
    EXPECT_EQ(key.derived_bytes() > 0, key.method() == "rmt" || key.method() == "neuracrypt" ||
                                           key.method().starts_with("aes"));
  }
  for (const auto& entry : fs::directory_iterator(dir.path()))
    EXPECT_EQ(entry.path().extension(), ".key") << entry.path();
}

TEST(DisguiseKeys, HoldStatisticsOfTheOwnersImages) {
  const std::vector<std::string> method = {"disguise.method=neuracrypt",
                                           "disguise.neuracrypt.width=24",
                                           "disguise.insecure_seeded_secrets=true"};
  EXPECT_EQ(DisguiseKey::samples_needed(settings(method)), 2048);
  EXPECT_EQ(DisguiseKey::samples_needed(settings({"disguise.method=rmt"})), 0);
  EXPECT_NE(
      error_of([&] { DisguiseKey::make(settings(method), images(), 1); }).find("there are none"),
      std::string::npos);
  const Tensor batch = gradient_images(images());
  const DisguiseKey a = make(method);
  const DisguiseKey other =
      DisguiseKey::make(settings(method), images(), 1, {Tensor::full({1, 3, 32, 32}, 200), {}});
  EXPECT_EQ(a.id(), other.id());
  EXPECT_NE(transformed(a, batch).to_vector(), transformed(other, batch).to_vector());
  // What was measured may be missing, or of another form.
  const test::TempDir dir;
  const fs::path file = dir / "owner.key";
  const auto error_after = [&](const std::function<void(Checkpoint&)>& change) {
    fs::remove(file);
    a.write(file);
    Checkpoint content = read_checkpoint(file, "disguise-key");
    change(content);
    write_checkpoint(file, content, true);
    return error_of([&] { DisguiseKey::read(file); });
  };
  EXPECT_NE(
      error_after([](Checkpoint& c) { c.tensors.erase("measured/mean"); }).find("no statistics"),
      std::string::npos);
  EXPECT_NE(error_after([](Checkpoint& c) {
              c.tensors["measured/variance"] = Tensor::zeros({4, 25});
            }).find("do not fit together"),
            std::string::npos);
  EXPECT_NE(error_after([](Checkpoint& c) {
              c.tensors["measured/variance"].data<float>()[0] = NAN;
            }).find("do not fit together"),
            std::string::npos);
}

// Uniform within 1 / sqrt(fan_in), as PyTorch's layers start; the positions are standard normal.
TEST(DisguiseKeys, RandomNetworksHaveTheirLaws) {
  const DisguiseKey key =
      make({"disguise.method=neuracrypt", "disguise.insecure_seeded_secrets=true"});
  const test::TempDir dir;
  key.write(dir / "owner.key");
  const Checkpoint content = read_checkpoint(dir / "owner.key", "disguise-key");
  const auto values = [&](const std::string& name) {
    const auto span = content.tensor("parameters/" + name).span<float>();
    return std::vector<double>(span.begin(), span.end());
  };
  EXPECT_EQ(content.tensor("parameters/first_weight").shape(), Shape({256, 48}));
  EXPECT_EQ(content.tensor("parameters/hidden_weight").shape(), Shape({4, 256, 256}));
  EXPECT_EQ(content.tensor("parameters/positions").shape(), Shape({64, 256}));
  const auto uniform = [](double bound) {
    return [bound](double x) { return std::clamp((x + bound) / (2 * bound), 0.0, 1.0); };
  };
  const double q = 1 / std::sqrt(48.0), d = 1 / std::sqrt(256.0);
  EXPECT_LT(kolmogorov_smirnov(values("first_weight"), uniform(q)), 1.95);
  EXPECT_LT(kolmogorov_smirnov(values("first_bias"), uniform(q)), 1.95);
  EXPECT_LT(kolmogorov_smirnov(values("hidden_weight"), uniform(d)), 1.95);
  EXPECT_LT(kolmogorov_smirnov(values("last_weight"), uniform(d)), 1.95);
  EXPECT_LT(kolmogorov_smirnov(values("positions"),
                               [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }),
            1.95);
}

TEST(DisguiseKeys, AreRandomUnlessASeedDecides) {
  const DisguiseKey a = make({"disguise.method=rmt"}), b = make({"disguise.method=rmt"});
  EXPECT_NE(a.id(), b.id());
  EXPECT_FALSE(a.insecure());
  const Tensor batch = gradient_images(images());
  EXPECT_NE(transformed(a, batch).to_vector(), transformed(b, batch).to_vector());
  const DisguiseKey c = make(kSeeded), d = make(kSeeded), e = make(kSeeded, images(), 2);
  EXPECT_TRUE(c.insecure());
  EXPECT_EQ(c.id(), d.id());
  EXPECT_EQ(transformed(c, batch).to_vector(), transformed(d, batch).to_vector());
  EXPECT_NE(c.id(), e.id());
  EXPECT_EQ(c.fresh("train").next(), d.fresh("train").next());
  EXPECT_NE(c.fresh("train").next(), c.fresh("query").next());
  EXPECT_NE(a.fresh("train").next(), a.fresh("train").next());
}

TEST(DisguiseKeys, ClassesGetSecretNames) {
  DisguisedImages many = images();
  for (int i = 0; i < 45; ++i) many.class_names.push_back("class " + std::to_string(i));
  std::vector<int32_t> same(50);
  std::iota(same.begin(), same.end(), 0);
  EXPECT_EQ(make({"disguise.method=rmt"}, many).renamed_classes(), same);
  std::vector<int32_t> renamed =
      make({"disguise.method=rmt", "disguise.permute_labels=true"}, many).renamed_classes();
  EXPECT_NE(renamed, same);
  std::ranges::sort(renamed);
  EXPECT_EQ(renamed, same);
}

class KeyFile : public ::testing::Test {
 protected:
  KeyFile() { key_.write(file_); }
  std::string error() const {
    return error_of([&] { DisguiseKey::read(file_); });
  }
  // The file once `change` was made to it by somebody who knows how to write one.
  std::string error_after(const std::function<void(Checkpoint&)>& change) const {
    Checkpoint content = read_checkpoint(file_, "disguise-key");
    change(content);
    write_checkpoint(file_, content, true);
    return error();
  }

  test::TempDir dir_;
  fs::path file_ = dir_ / "owner.key";
  DisguiseKey key_ = make({"disguise.method=rmt", "disguise.rmt.permute=true"});
};

TEST_F(KeyFile, IsNeverWrittenOver) {
  const std::string before = read_file(file_);
  EXPECT_NE(error_of([&] { make({"disguise.method=aes"}).write(file_); }).find("already"),
            std::string::npos);
  EXPECT_EQ(read_file(file_), before);
  EXPECT_NE(error_of([&] { key_.write(dir_ / "absent/owner.key"); }).find("absent"),
            std::string::npos);
}

// A file size limit stands for a full disk.
TEST_F(KeyFile, AFullDiskLeavesNothingBehind) {
  const fs::path file = dir_ / "full.key";
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    _exit(error_of([&] { key_.write(file); }).find("cannot write") == std::string::npos);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1) << "the other key alone";
}

TEST_F(KeyFile, OthersMayNotReadIt) {
  for (const auto mode : {0644, 0640, 0604, 0620}) {
    fs::permissions(file_, static_cast<fs::perms>(mode));
    EXPECT_NE(error().find("chmod 600"), std::string::npos) << mode;
  }
  fs::permissions(file_, static_cast<fs::perms>(0400));
  EXPECT_EQ(DisguiseKey::read(file_).id(), key_.id());
}

TEST_F(KeyFile, DamageIsNamed) {
  const std::string bytes = read_file(file_);
  for (const size_t at : {size_t{700}, bytes.size() / 2, bytes.size() - 1}) {
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    write_file_atomically(file_, flipped, true);
    EXPECT_NE(error().find("damaged"), std::string::npos) << at;
  }
  write_file_atomically(file_, bytes.substr(0, bytes.size() / 2), true);
  EXPECT_NE(error().find("cut off"), std::string::npos);
  fs::remove(file_);
  EXPECT_NE(error().find("cannot open"), std::string::npos);
}

TEST_F(KeyFile, PartsThatDoNotBelongTogetherAreRefused) {
  const std::string bytes = read_file(file_);
  const auto again = [&](const std::function<void(Checkpoint&)>& change) {
    write_file_atomically(file_, bytes, true);
    return error_after(change);
  };
  const char wrong[] = "do not follow from its master key";
  EXPECT_NE(again([](Checkpoint& c) {
              c.tensors["parameters/matrices"].data<float>()[5] += 0.01f;
            }).find(wrong),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) {
              auto order = c.tensors["parameters/permutation"].span<int32_t>();
              std::swap(order[0], order[1]);
            }).find(wrong),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.tensors["master"].data<uint8_t>()[0] ^= 1; }).find(wrong),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.tensors.erase("parameters/permutation"); }).find(wrong),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.numbers["height"] = 64; }).find(wrong), std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.texts["settings"] = "method: \"aes\""; }).find(wrong),
            std::string::npos);
  EXPECT_NE(
      again([](Checkpoint& c) { c.texts["settings"] = "method: \"none\""; }).find("no method"),
      std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.tensors.erase("master"); }).find("no master key"),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.numbers["version"] = 2; }).find("newer version"),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.numbers["width"] = 0; }).find("impossible shape"),
            std::string::npos);
  EXPECT_NE(again([](Checkpoint& c) { c.kind = "edge"; }).find("'edge' file"), std::string::npos);
}

// What the key is says no error, whatever is wrong with its file.
TEST_F(KeyFile, ErrorsDoNotTellTheKey) {
  const Checkpoint content = read_checkpoint(file_, "disguise-key");
  const auto master = content.tensor("master").span<uint8_t>();
  const std::string secret(master.begin(), master.end());
  std::string text =
      error_after([](Checkpoint& c) { c.tensors["parameters/matrices"].data<float>()[0] = 7; });
  text +=
      error_after([](Checkpoint& c) { c.texts["settings"] = "method: 'rmt' rmt { noise: -1 }"; });
  for (size_t i = 0; i + 4 <= secret.size(); ++i) {
    EXPECT_EQ(text.find(secret.substr(i, 4)), std::string::npos);
    EXPECT_EQ(text.find(to_hex(secret.substr(i, 4))), std::string::npos);
  }
}

TEST(Secrets, AreLeftOutOfCoreDumps) {
  const Tensor secret = secret_tensor({1000}, Dtype::kU8);
  std::ifstream maps("/proc/self/smaps");
  const auto address = reinterpret_cast<uintptr_t>(secret.raw());
  bool here = false, found = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      here = begin <= address && address < end;
    if (here && line.starts_with("VmFlags:")) {
      found = true;
      EXPECT_NE(line.find(" dd"), std::string::npos) << line;
    }
  }
  if (!found) GTEST_SKIP() << "this kernel shows no VmFlags";
}

TEST(DisguiseKeys, SettingsThatDoNotFitTheImagesAreRefused) {
  EXPECT_NE(error_of([] {
              make({"disguise.method=rmt", "disguise.rmt.block=28x28"}, images(1, 16, 16));
            }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              make({"disguise.method=neuracrypt", "disguise.neuracrypt.patch=33"});
            }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of([] { make({}); }).find("no method"), std::string::npos);
  EXPECT_NE(
      error_of([] { make({"disguise.method=rmt"}, images(0, 8, 8)); }).find("impossible shape"),
      std::string::npos);
  EXPECT_NE(error_of([] {
              make({"disguise.method=rmt"}, {{3, 8, 8}, "crop", {"only"}});
            }).find("two classes"),
            std::string::npos);
  for (const char* bad :
       {"disguise.rmt.noise=-1", "disguise.rmt.noise=nan", "disguise.rmt.block=3x3",
        "disguise.aes.unit=8x8", "disguise.dp.epsilon=0", "disguise.sigma=-1", "disguise.augment=0",
        "disguise.neuracrypt.depth=65", "disguise.neuracrypt.depth=-2",
        "disguise.neuracrypt.patch=0", "disguise.neuracrypt.width=0"}) {
    EXPECT_NE(error_of([&] { settings({bad}); }), "") << bad;
  }
}

}  // namespace
}  // namespace ens
