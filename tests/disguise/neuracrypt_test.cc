// SPDX-License-Identifier: Apache-2.0
// NeuraCrypt's encoder against PyTorch, and what of it is anew for every image.
#include "disguise/transform/neuracrypt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/core/rng.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

using test::error_of;

struct Case {
  ImageShape image;
  Tensor images, expected;
  NeuracryptParameters parameters;  // without statistics
  std::vector<float> mean, variance;
};

Tensor tensor(const nlohmann::json& values, const Shape& shape) {
  return Tensor::from(values.get<std::vector<float>>(), shape);
}

std::vector<Case> cases() {
  std::ifstream in(ENS_SOURCE_DIR "/tests/disguise/neuracrypt_reference.json");
  std::vector<Case> out;
  for (const nlohmann::json& c : nlohmann::json::parse(in)) {
    Case one;
    const Shape shape(c["shape"].get<std::vector<int64_t>>());
    one.image = {static_cast<int>(shape[1]), static_cast<int>(shape[2]),
                 static_cast<int>(shape[3])};
    one.images = tensor(c["images"], shape);
    const int64_t n = c["codes"][0], d = c["codes"][1];
    one.expected = tensor(c["expected"], {shape[0], n, d});
    one.parameters =
        neuracrypt_form(one.image, c["patch"], static_cast<int>(d), c["depth"].get<int>());
    for (const NeuracryptPart& part : random_parts(one.parameters)) {
      const std::vector<float> values = c[part.name].get<std::vector<float>>();
      EXPECT_EQ(std::ssize(values), part.tensor->numel()) << part.name;
      std::ranges::copy(values, part.tensor->data<float>());
    }
    if (c.contains("mean")) {
      one.mean = c["mean"].get<std::vector<float>>();
      one.variance = c["variance"].get<std::vector<float>>();
    }
    out.push_back(one);
  }
  return out;
}

TEST(Neuracrypt, AgreesWithPyTorch) {
  const std::vector<Case> all = cases();
  ASSERT_EQ(all.size(), 4u);
  for (const Case& c : all) {
    NeuracryptParameters p = c.parameters;
    SCOPED_TRACE("depth " + std::to_string(p.hidden_weight.defined() ? p.hidden_weight.dim(0) : 0));
    measure_neuracrypt(c.image, c.images, p);
    for (size_t i = 0; i < c.mean.size(); ++i) {
      EXPECT_NEAR(p.mean.data<float>()[i], c.mean[i], 1e-5);
      EXPECT_NEAR(p.variance.data<float>()[i], c.variance[i], 1e-5);
    }
    const Tensor codes = neuracrypt_codes(c.image, p, c.images);
    ASSERT_EQ(codes.shape(), c.expected.shape());
    for (int64_t i = 0; i < codes.numel(); ++i) {
      ASSERT_NEAR(codes.data<float>()[i], c.expected.data<float>()[i], 1e-5) << i;
    }
  }
}

// Public code took the statistics of each batch: an image's codes then depended on its batch mates.
TEST(Neuracrypt, AnImagesCodesDoNotDependOnTheOthers) {
  Case c = cases()[0];
  measure_neuracrypt(c.image, c.images, c.parameters);
  const Tensor together = neuracrypt_codes(c.image, c.parameters, c.images);
  const Tensor alone = neuracrypt_codes(c.image, c.parameters, c.images.rows(1, 1));
  for (int64_t i = 0; i < alone.numel(); ++i) {
    EXPECT_NEAR(alone.data<float>()[i], together.rows(1, 1).data<float>()[i], 1e-6);
  }
}

TEST(Neuracrypt, CodesComeInAnOrderOfTheirOwnForEveryImage) {
  Case c = cases()[0];
  measure_neuracrypt(c.image, c.images, c.parameters);
  const auto transform = neuracrypt_transform(c.image, c.parameters);
  EXPECT_EQ(transform->output_shape(), Shape({4, 12}));
  constexpr int64_t kCopies = 600;
  Tensor copies = Tensor::empty({kCopies, 3, 8, 8});
  for (int64_t i = 0; i < kCopies; ++i) copies.rows(i, 1).copy_from(c.images.rows(0, 1));
  const Tensor codes = neuracrypt_codes(c.image, c.parameters, copies.rows(0, 1));
  FreshRandomness fresh;
  const Tensor out = transform->apply(copies, fresh);
  std::set<std::vector<int64_t>> orders;
  std::vector<int> first(4);
  for (int64_t i = 0; i < kCopies; ++i) {
    std::vector<int64_t> order;
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t j = 0; j < 4; ++j) {
        const float* a = out.data<float>() + (i * 4 + k) * 12;
        const float* b = codes.data<float>() + j * 12;
        if (std::equal(a, a + 12, b, [](float x, float y) { return std::abs(x - y) < 1e-5f; })) {
          order.push_back(j);
        }
      }
    }
    std::vector<int64_t> sorted = order;
    std::ranges::sort(sorted);
    ASSERT_EQ(sorted, (std::vector<int64_t>{0, 1, 2, 3}));
    orders.insert(order);
    ++first[static_cast<size_t>(order[0])];
  }
  EXPECT_EQ(orders.size(), 24u);
  for (const int count : first) EXPECT_NEAR(count, 150, 5 * std::sqrt(150 * 0.75));
  const Seed seed{3};
  FreshRandomness a(seed), b(seed);
  EXPECT_EQ(transform->apply(c.images, a).to_vector(), transform->apply(c.images, b).to_vector());
  EXPECT_EQ(transform->apply(Tensor::empty({0, 3, 8, 8}), fresh).numel(), 0);
}

TEST(Neuracrypt, ImpossibleParametersAreRefused) {
  const ImageShape image{3, 8, 8};
  EXPECT_NE(error_of([&] { neuracrypt_form(image, 9, 8, 4); }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of([&] { neuracrypt_form(image, 0, 8, 4); }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of([&] { neuracrypt_form(image, 4, 65536, 4); }).find("2^28"), std::string::npos);
  const auto error = [&](auto change) {
    NeuracryptParameters p = neuracrypt_form(image, 4, 8, 2);
    change(p);
    return error_of([&] { neuracrypt_transform(image, p); });
  };
  EXPECT_NO_THROW(neuracrypt_transform(image, neuracrypt_form(image, 4, 8, 2)));
  const char wrong[] = "do not fit together";
  EXPECT_NE(error([](auto& p) {
              p.first_weight = Tensor::zeros({8, 5});
            }).find(wrong),
            std::string::npos);
  EXPECT_NE(error([](auto& p) {
              p.positions = Tensor::zeros({3, 8});
            }).find(wrong),
            std::string::npos);
  EXPECT_NE(error([](auto& p) { p.mean = Tensor(); }).find(wrong), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.variance.template data<float>()[3] = -1; }).find(wrong),
            std::string::npos);
  EXPECT_NE(error([](auto& p) { p.last_bias.template data<float>()[3] = NAN; }).find(wrong),
            std::string::npos);
  NeuracryptParameters p = neuracrypt_form(image, 4, 8, 2);
  EXPECT_NE(error_of([&] {
              measure_neuracrypt(image, Tensor::empty({0, 3, 8, 8}), p);
            }).find("no images"),
            std::string::npos);
  FreshRandomness fresh;
  const auto transform = neuracrypt_transform(image, p);
  EXPECT_NE(error_of([&] {
              transform->apply(Tensor::zeros({1, 3, 8, 9}), fresh);
            }).find("[3, 8, 8]"),
            std::string::npos);
}

}  // namespace
}  // namespace ens
