// SPDX-License-Identifier: Apache-2.0
// The methods against NumPy, the openssl program and published vectors, and the laws of their
// noise.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/secret_rng.h"
#include "base/threads.h"
#include "disguise/transform/aes.h"
#include "disguise/transform/baselines.h"
#include "disguise/transform/cipher.h"
#include "disguise/transform/rmt.h"
#include "nn/core/rng.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

using test::error_of;

nlohmann::json reference() {
  std::ifstream in(ENS_SOURCE_DIR "/tests/disguise/transform_reference.json");
  return nlohmann::json::parse(in);
}

std::vector<uint8_t> bytes_of(const std::string& hex) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return out;
}

Tensor tensor(const nlohmann::json& values, const Shape& shape) {
  return Tensor::from(values.get<std::vector<float>>(), shape);
}
Shape shape_of(const nlohmann::json& dims) { return Shape(dims.get<std::vector<int64_t>>()); }
ImageShape image_of(const Shape& batch) {
  return {static_cast<int>(batch[1]), static_cast<int>(batch[2]), static_cast<int>(batch[3])};
}

Tensor random_images(const Shape& shape, uint64_t seed = 1) {
  Tensor out = Tensor::empty(shape);
  Rng rng(seed);
  for (float& pixel : out.span<float>()) pixel = static_cast<float>(rng.below(256));
  return out;
}

// Matrices that do nothing.
Tensor identities(int64_t count, int64_t n) {
  Tensor out = Tensor::zeros({count, n, n});
  for (int64_t i = 0; i < count * n; ++i) out.data<float>()[i * n + i % n] = 1;
  return out;
}

struct Moments {
  double mean = 0, variance = 0, low = 1e30, high = -1e30;
};
Moments moments_of(const Tensor& noisy, const Tensor& clean) {
  Moments m;
  for (int64_t i = 0; i < clean.numel(); ++i) {
    const double d = static_cast<double>(noisy.data<float>()[i]) - clean.data<float>()[i];
    m.mean += d;
    m.variance += d * d;
    m.low = std::min(m.low, d);
    m.high = std::max(m.high, d);
  }
  m.mean /= static_cast<double>(clean.numel());
  m.variance = m.variance / static_cast<double>(clean.numel()) - m.mean * m.mean;
  return m;
}

TEST(Rmt, AgreesWithNumPy) {
  for (const nlohmann::json& c : reference()["rmt"]) {
    SCOPED_TRACE(c["side"]);
    const Shape shape = shape_of(c["shape"]);
    const int64_t n = c["n"];
    RmtParameters p;
    p.block_height = c["block"][0];
    p.block_width = c["block"][1];
    p.side = c["side"] == "right"  ? RmtSide::kRight
             : c["side"] == "left" ? RmtSide::kLeft
                                   : RmtSide::kFull;
    p.matrices =
        tensor(c["matrices"], {static_cast<int64_t>(c["matrices"].size()) / (n * n), n, n});
    p.permutation = c["permutation"].get<std::vector<int64_t>>();
    const auto transform = rmt_transform(image_of(shape), p);
    FreshRandomness fresh;
    const Tensor got = transform->apply(tensor(c["images"], shape), fresh);
    EXPECT_EQ(transform->output_shape(), shape_of(c["output"]));
    EXPECT_FALSE(transform->ciphertext());
    const Tensor wanted = tensor(c["expected"], got.shape());
    for (int64_t i = 0; i < got.numel(); ++i) {
      ASSERT_NEAR(got.data<float>()[i], wanted.data<float>()[i],
                  1e-5 * (100 + std::abs(wanted.data<float>()[i])))
          << i;
    }
  }
}

TEST(Aes, AgreesWithTheOpensslProgram) {
  for (const nlohmann::json& c : reference()["aes"]) {
    SCOPED_TRACE(c["unit"].dump() + c["keys"].dump());
    const Shape shape = shape_of(c["shape"]);
    AesParameters p;
    p.unit_height = c["unit"][0];
    p.unit_width = c["unit"][1];
    p.keys = c["keys"] == "one"        ? AesKeys::kOne
             : c["keys"] == "position" ? AesKeys::kPosition
                                       : AesKeys::kChannel;
    std::vector<uint8_t> keys;
    for (const std::string hex : c["key_bytes"])
      std::ranges::copy(bytes_of(hex), std::back_inserter(keys));
    const auto count = static_cast<int64_t>(c["key_bytes"].size());
    p.key_bytes = Tensor::empty({count, static_cast<int64_t>(keys.size()) / count}, Dtype::kU8);
    std::ranges::copy(keys, p.key_bytes.data<uint8_t>());
    const auto transform = aes_transform(image_of(shape), p);
    EXPECT_TRUE(transform->ciphertext());
    EXPECT_EQ(transform->output_shape(), shape_of(c["output"]));
    FreshRandomness fresh;
    EXPECT_EQ(transform->apply(tensor(c["images"], shape), fresh).to_vector(),
              c["expected"].get<std::vector<float>>());
  }
}

std::string encrypted(AesMode mode, const std::string& key, const std::string& text,
                      const std::string& start = "") {
  std::vector<uint8_t> bytes = bytes_of(text);
  AesCipher(mode, bytes_of(key), bytes_of(start)).encrypt(bytes);
  std::string hex;
  for (const uint8_t byte : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    hex += two;
  }
  return hex;
}

TEST(Aes, Fips197) {
  const std::string text = "00112233445566778899aabbccddeeff";
  EXPECT_EQ(encrypted(AesMode::kEcb, "000102030405060708090a0b0c0d0e0f", text),
            "69c4e0d86a7b0430d8cdb78070b4c55a");
  EXPECT_EQ(encrypted(AesMode::kEcb,
                      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", text),
            "8ea2b7ca516745bfeafc49904b496089");
}

TEST(Aes, Sp80038a) {
  const std::string text =
      "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a"
      "52ef"
      "f69f2445df4f9b17ad2b417be66c3710";
  const std::string key128 = "2b7e151628aed2a6abf7158809cf4f3c",
                    key256 = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                    counter = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
  EXPECT_EQ(encrypted(AesMode::kEcb, key128, text),
            "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf43b1cd7f598ece23881b00"
            "e3ed030688"
            "7b0c785e27e8ad3f8223207104725dd4");
  EXPECT_EQ(encrypted(AesMode::kEcb, key256, text),
            "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870b6ed21b99ca6f4f9f153e7"
            "b1beafed1d"
            "23304b7a39f9f3ff067d8d8f9e24ecc7");
  EXPECT_EQ(encrypted(AesMode::kCtr, key128, text, counter),
            "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09"
            "020db03eab"
            "1e031dda2fbe03d1792170a0f3009cee");
  EXPECT_EQ(encrypted(AesMode::kCtr, key256, text, counter),
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c52b0930daa23de94ce87017"
            "ba2d84988d"
            "dfc9c58db67aada613c2dd08457941a6");
}

// Ciphertext was once read through casts that wrap around.
TEST(Aes, PixelsAreRoundedAndNeverWrap) {
  EXPECT_EQ(as_byte(-3.0f), 0);
  EXPECT_EQ(as_byte(0.4f), 0);
  EXPECT_EQ(as_byte(0.5f), 1);
  EXPECT_EQ(as_byte(254.6f), 255);
  EXPECT_EQ(as_byte(300.0f), 255);
  EXPECT_EQ(as_byte(std::nanf("")), 0);
}

TEST(AesCtr, NoImageIsEncryptedTwiceAlike) {
  const ImageShape image{3, 8, 8};
  Tensor key = Tensor::zeros({16}, Dtype::kU8);
  const auto transform = aesctr_transform(image, key);
  EXPECT_TRUE(transform->ciphertext());
  const Tensor images = Tensor::zeros({64, 3, 8, 8});
  FreshRandomness fresh;
  const Tensor out = transform->apply(images, fresh);
  // All bytes of all images together are uniform: chi-squared of 255 degrees, 5 deviations.
  std::vector<double> counts(256);
  for (const float value : out.span<float>()) counts.at(static_cast<size_t>(value)) += 1;
  const double expected = static_cast<double>(out.numel()) / 256;
  double chi = 0;
  for (const double count : counts) chi += (count - expected) * (count - expected) / expected;
  EXPECT_LT(std::abs(chi - 255), 5 * std::sqrt(2 * 255.0));
  for (int64_t i = 1; i < 64; ++i)
    EXPECT_NE(out.rows(i, 1).to_vector(), out.rows(0, 1).to_vector());
}

// Of public code: noise that was computed and then dropped, divided by 255, or refused at N = 0
// and 1.
TEST(Rmt, NoiseHasItsLawAndPlace) {
  const ImageShape image{3, 32, 32};
  const Tensor images = random_images({32, 3, 32, 32});
  for (const double n : {0.0, 1.0, 25.0, 200.0}) {
    for (const NoiseLaw law : {NoiseLaw::kUniform, NoiseLaw::kCentred, NoiseLaw::kGaussian}) {
      for (const bool after : {false, true}) {
        RmtParameters p;
        p.matrices = identities(1, 4);
        p.noise = n;
        p.noise_law = law;
        p.noise_after = after;
        FreshRandomness fresh;
        const Moments m = moments_of(rmt_transform(image, p)->apply(images, fresh), images);
        const double error = n / std::sqrt(12.0) / std::sqrt(static_cast<double>(images.numel()));
        EXPECT_NEAR(m.mean, law == NoiseLaw::kUniform ? n / 2 : 0, 5 * error + 1e-5);
        EXPECT_NEAR(m.variance, n * n / 12, 0.02 * n * n / 12 + 1e-9);
        if (law == NoiseLaw::kUniform) {
          EXPECT_GE(m.low, -1e-4);
          EXPECT_LE(m.high, n + 1e-4);
        }
      }
    }
  }
  // Before the matrix, the noise is turned with the image; after it, it is not.
  RmtParameters p;
  p.matrices = Tensor::full({1, 4, 4}, 0.5f);
  p.noise = 100;
  p.noise_law = NoiseLaw::kCentred;
  FreshRandomness fresh;
  const Tensor clean = [&] {
    RmtParameters none = p;
    none.noise = 0;
    return rmt_transform(image, none)->apply(images, fresh);
  }();
  const Tensor before = rmt_transform(image, p)->apply(images, fresh);
  p.noise_after = true;
  const Tensor after = rmt_transform(image, p)->apply(images, fresh);
  const auto difference = [&](const Tensor& noisy, int64_t i) {
    return noisy.data<float>()[i] - clean.data<float>()[i];
  };
  EXPECT_NEAR(difference(before, 0), difference(before, 1),
              1e-2);  // all columns of this matrix are the same
  EXPECT_GT(std::abs(difference(after, 0) - difference(after, 1)), 1e-3);
}

TEST(Rmt, NoiseIsFreshForEveryImageAndMatricesAreNot) {
  const ImageShape image{1, 8, 8};
  RmtParameters p;
  p.matrices = random_images({4, 4, 4}, 3);
  const Tensor one = random_images({1, 1, 8, 8});
  Tensor twice = Tensor::empty({2, 1, 8, 8});
  std::ranges::copy(one.span<float>(), twice.data<float>());
  std::ranges::copy(one.span<float>(), twice.data<float>() + 64);
  FreshRandomness fresh;
  const Tensor alike = rmt_transform(image, p)->apply(twice, fresh);
  EXPECT_EQ(alike.rows(0, 1).to_vector(), alike.rows(1, 1).to_vector());
  p.noise = 10;
  const Tensor noisy = rmt_transform(image, p)->apply(twice, fresh);
  EXPECT_NE(noisy.rows(0, 1).to_vector(), noisy.rows(1, 1).to_vector());
}

TEST(Transforms, NumbersDoNotDependOnThreads) {
  const ImageShape image{3, 9, 10};
  const Tensor images = random_images({37, 3, 9, 10});
  RmtParameters p;
  p.matrices = random_images({9, 4, 4}, 5);
  p.noise = 25;
  p.noise_law = NoiseLaw::kGaussian;
  AesParameters aes;
  aes.key_bytes = Tensor::zeros({1, 16}, Dtype::kU8);
  Tensor key = Tensor::zeros({16}, Dtype::kU8);
  std::vector<std::unique_ptr<Transform>> all;
  all.push_back(identity_transform(image));
  all.push_back(noise_transform(image, 20));
  all.push_back(dp_transform(image, 4, 10));
  all.push_back(rmt_transform(image, p));
  all.push_back(aes_transform(image, aes));
  all.push_back(aesctr_transform(image, key));
  const Seed seed{1, 2, 3};
  const int threads = compute_threads();
  for (const auto& transform : all) {
    std::vector<std::vector<float>> results;
    for (const int n : {1, 4}) {
      set_compute_threads(n);
      FreshRandomness fresh(seed);
      results.push_back(transform->apply(images, fresh).to_vector());
    }
    set_compute_threads(threads);
    EXPECT_EQ(results[0], results[1]);
    FreshRandomness fresh(seed);
    EXPECT_EQ(transform->apply(Tensor::empty({0, 3, 9, 10}), fresh).numel(), 0);
    EXPECT_NE(error_of([&] {
                transform->apply(random_images({2, 1, 9, 10}), fresh);
              }).find("[3, 9, 10]"),
              std::string::npos);
    EXPECT_NE(error_of([&] {
                transform->apply(random_images({2, 3, 10, 10}), fresh);
              }).find("[3, 9, 10]"),
              std::string::npos);
  }
}

TEST(Noise, IsGaussianOfItsDeviation) {
  const Tensor images = random_images({64, 3, 32, 32});
  FreshRandomness fresh;
  const Tensor noisy = noise_transform({3, 32, 32}, 20)->apply(images, fresh);
  const Moments m = moments_of(noisy, images);
  EXPECT_NEAR(m.mean, 0, 5 * 20 / std::sqrt(static_cast<double>(images.numel())));
  EXPECT_NEAR(m.variance, 400, 8);
  int64_t within = 0;
  for (int64_t i = 0; i < images.numel(); ++i)
    within += std::abs(noisy.data<float>()[i] - images.data<float>()[i]) < 20;
  EXPECT_NEAR(static_cast<double>(within) / static_cast<double>(images.numel()), 0.6827, 0.006);
}

TEST(Dp, EveryCellsMeanHasLaplaceNoiseOfItsScale) {
  const ImageShape image{3, 30, 32};  // 8 x 8 cells, of which the last row is 2 pixels high
  const Tensor one = random_images({1, 3, 30, 32});
  constexpr int64_t kCopies = 400;
  Tensor images = Tensor::empty({kCopies, 3, 30, 32});
  for (int64_t i = 0; i < kCopies; ++i)
    std::ranges::copy(one.span<float>(), images.data<float>() + i * one.numel());
  FreshRandomness fresh;
  const double epsilon = 50;
  const Tensor out = dp_transform(image, 4, epsilon)->apply(images, fresh);
  const double scale = 3 * 64 / epsilon * 255;
  double magnitude = 0, sum = 0;
  int64_t count = 0, beyond = 0;
  for (int64_t i = 0; i < kCopies; ++i) {
    const float* pixels = out.data<float>() + i * one.numel();
    for (int c = 0; c < 3; ++c) {
      for (int y = 0; y < 30; y += 4) {
        for (int x = 0; x < 32; x += 4) {
          double mean = 0;
          const int high = std::min(4, 30 - y);
          for (int dy = 0; dy < high; ++dy) {
            for (int dx = 0; dx < 4; ++dx) {
              const int64_t at = (c * 30 + y + dy) * 32 + x + dx;
              mean += one.data<float>()[at] / (4.0 * high);
              ASSERT_EQ(pixels[at], pixels[(c * 30 + y) * 32 + x]);  // one value a cell
            }
          }
          const double noise = pixels[(c * 30 + y) * 32 + x] - mean;
          sum += noise;
          magnitude += std::abs(noise);
          beyond += std::abs(noise) > 2 * scale;
          ++count;
        }
      }
    }
  }
  const double n = static_cast<double>(count);
  EXPECT_NEAR(
      magnitude / n, scale,
      5 * scale / std::sqrt(n));  // the mean of |Laplace| is its scale, and so is its deviation
  EXPECT_NEAR(sum / n, 0, 5 * scale * std::sqrt(2 / n));
  EXPECT_NEAR(static_cast<double>(beyond) / n, std::exp(-2), 0.01);
}

// The provable baseline: whoever knows all but which of M images it was guesses right at most with
// e^eps / (e^eps + M - 1).
TEST(Dp, TheBestGuesserStaysBelowTheBound) {
  constexpr int64_t kCandidates = 10, kTrials = 2000;
  const ImageShape image{1, 8, 8};
  Tensor candidates = Tensor::zeros({kCandidates, 1, 8, 8});  // as different as images can be
  Rng rng(4);
  for (float& pixel : candidates.span<float>()) pixel = rng.below(2) ? 255.0f : 0.0f;
  for (int64_t i = 0; i < kCandidates; ++i) {  // whole cells of black or white
    float* pixels = candidates.data<float>() + i * 64;
    for (int64_t at = 0; at < 64; ++at) pixels[at] = pixels[at / 32 * 32 + at % 8 / 4 * 4];
  }
  for (const double epsilon : {0.5, 2.0, 8.0}) {
    const auto transform = dp_transform(image, 4, epsilon);
    FreshRandomness fresh;
    int64_t right = 0;
    for (int64_t trial = 0; trial < kTrials; ++trial) {
      const int64_t truth = trial % kCandidates;
      const Tensor out = transform->apply(candidates.rows(truth, 1), fresh);
      int64_t best = -1;
      double least = 1e300;
      for (int64_t i = 0; i < kCandidates; ++i) {
        double distance = 0;  // the likelihood of Laplace noise falls with the sum of magnitudes
        for (int64_t at = 0; at < 64; ++at) {
          distance += std::abs(out.data<float>()[at] - candidates.data<float>()[i * 64 + at]);
        }
        distance += 1e-6 * static_cast<double>(rng.below(1000));  // ties at random
        if (distance < least) least = distance, best = i;
      }
      right += best == truth;
    }
    const double bound = std::exp(epsilon) / (std::exp(epsilon) + kCandidates - 1);
    const double share = static_cast<double>(right) / kTrials;
    EXPECT_LT(share, bound + 2.6 * std::sqrt(bound * (1 - bound) / kTrials)) << epsilon;
    EXPECT_GT(share, 0.05) << "the guesser guesses";
  }
}

TEST(Transforms, ImpossibleParametersAreRefused) {
  const ImageShape image{1, 8, 8};
  const auto rmt_error = [&](auto change) {
    RmtParameters p;
    p.matrices = identities(1, 4);
    change(p);
    return error_of([&] { rmt_transform(image, p); });
  };
  EXPECT_NE(rmt_error([](auto& p) { p.block_height = 14; }).find("14x4 pixels does not fit"),
            std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) { p.noise = -1; }).find("0 or more"), std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) { p.noise = NAN; }).find("0 or more"), std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) { p.noise = HUGE_VAL; }).find("0 or more"), std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) { p.matrices = identities(3, 4); }).find("[4 or 1, n, n]"),
            std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) { p.matrices = identities(4, 3); }).find("n = 4"),
            std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) {
              p.permutation = {0, 1, 2, 2};
            }).find("permutation"),
            std::string::npos);
  EXPECT_NE(rmt_error([](auto& p) {
              p.permutation = {0, 1, 2};
            }).find("permutation"),
            std::string::npos);
  AesParameters aes;
  aes.key_bytes = Tensor::zeros({1, 16}, Dtype::kU8);
  aes.unit_height = 3;
  EXPECT_NE(error_of([&] { aes_transform(image, aes); }).find("sides of 1, 2 or 4"),
            std::string::npos);
  aes.unit_height = 4;
  aes.keys = AesKeys::kPosition;
  EXPECT_NE(error_of([&] { aes_transform(image, aes); }).find("4 keys"), std::string::npos);
  aes.keys = AesKeys::kOne;
  aes.key_bytes = Tensor::zeros({1, 15}, Dtype::kU8);
  EXPECT_NE(error_of([&] { aes_transform(image, aes); }).find("16 or 32 bytes"), std::string::npos);
  EXPECT_NE(error_of([&] { noise_transform(image, -1); }).find("0 or more"), std::string::npos);
  EXPECT_NE(error_of([&] { dp_transform(image, 0, 1); }).find("at least one pixel"),
            std::string::npos);
  EXPECT_NE(error_of([&] { dp_transform(image, 4, 0); }).find("above 0"), std::string::npos);
}

TEST(SecretRng, DrawsFromItsLaws) {
  SecretRng rng(Seed{9});
  constexpr int kDraws = 200000;
  double normal = 0, squares = 0, laplace = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    normal += x;
    squares += x * x;
    laplace += std::abs(rng.laplace());
    const double u = rng.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
  }
  EXPECT_NEAR(normal / kDraws, 0, 0.012);
  EXPECT_NEAR(squares / kDraws, 1, 0.016);
  EXPECT_NEAR(laplace / kDraws, 1, 0.012);
  std::vector<int> first(5);
  for (int i = 0; i < 5000; ++i) {
    std::vector<int64_t> order = rng.permutation(5);
    ++first[static_cast<size_t>(order[0])];
    std::ranges::sort(order);
    ASSERT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
  }
  for (const int count : first) EXPECT_NEAR(count, 1000, 5 * std::sqrt(800.0));
}

}  // namespace
}  // namespace ens
