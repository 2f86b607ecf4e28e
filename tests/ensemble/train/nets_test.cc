// SPDX-License-Identifier: Apache-2.0
#include "ensemble/train/nets.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "ensemble/protect/protection.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

// Three nets behind one head: the second says nothing of the image, the third is the first again.
class NetSharesTest : public testing::Test {
 protected:
  NetSharesTest() {
    DataOptions options;
    options.name = "shapes";
    options.limit = 150;  // more than one batch of the plans
    data_ = load_dataset(options, DataSplit::kTest);
    spec_.width = 8;
    spec_.classes = static_cast<int>(data_.class_names.size());
    spec_.channels = data_.channels;
    spec_.image_size = data_.width;
    spec_.mean = data_.mean;
    spec_.stddev = data_.stddev;
    head_ = build_head(spec_, split_, rng_);
    for (int i = 0; i < 3; ++i) bodies_.push_back(build_body(spec_, split_, rng_));
    for (const NamedVar& p : bodies_[1]->parameters()) p.var.mutable_value().fill(0);
    bodies_[2]->load_state(bodies_[0]->state(), "net 0");
    tail_ = build_tail(spec_, split_, rng_, 3);
    for (const auto& part : {head_, bodies_[0], bodies_[1], bodies_[2], tail_}) part->freeze();
  }

  std::vector<NetShare> shares() {
    return net_shares(*head_, *make_protection({}), bodies_, *tail_, spec_, split_, data_, Device{},
                      Dtype::kF32, [] {});
  }

  Rng rng_{3};
  Dataset data_;
  ModelSpec spec_;
  Split split_{1, 1};
  std::shared_ptr<Sequential> head_, tail_;
  std::vector<std::shared_ptr<Sequential>> bodies_;
};

// The same by the definition: the tail is linear, so a net's part of the logits is the product of
// its block of the tail's weight and its output.
TEST_F(NetSharesTest, AreTheVarianceOfEachBlocksProduct) {
  NoGrad no_grad;
  const Var z = head_->forward(Var(images_of(data_, 0, data_.count())));
  const Tensor weight = tail_->parameters()[0].var.value().plain();
  const int64_t classes = weight.dim(0), width = weight.dim(1) / 3;
  std::vector<double> expected;
  for (int net = 0; net < 3; ++net) {
    const Tensor output = bodies_[static_cast<size_t>(net)]->forward(z).value().plain();
    double share = 0;
    std::vector<std::vector<double>> parts(static_cast<size_t>(classes));
    for (int64_t i = 0; i < data_.count(); ++i) {
      std::vector<double> row;
      double mean = 0;
      for (int64_t c = 0; c < classes; ++c) {
        double sum = 0;
        for (int64_t k = 0; k < width; ++k) {
          sum += double{weight.data<float>()[c * 3 * width + net * width + k]} *
                 output.data<float>()[i * width + k] / 3;
        }
        row.push_back(sum);
        mean += sum / static_cast<double>(classes);
      }
      for (int64_t c = 0; c < classes; ++c) {
        parts[static_cast<size_t>(c)].push_back(row[static_cast<size_t>(c)] - mean);
      }
    }
    for (const auto& part : parts) {
      double mean = 0;
      for (double v : part) mean += v / static_cast<double>(part.size());
      for (double v : part) share += (v - mean) * (v - mean);
    }
    expected.push_back(share);
  }
  const double all = expected[0] + expected[1] + expected[2];
  const std::vector<NetShare> found = shares();
  ASSERT_EQ(found.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(found[i].share, expected[i] / all, 1e-3) << i;
  EXPECT_GT(found[0].share, 0.05);
}

TEST_F(NetSharesTest, ANetThatSaysNothingHasNoneAndGuesses) {
  const std::vector<NetShare> found = shares();
  EXPECT_NEAR(found[1].share, 0, 1e-6);
  double most = 0;  // of the largest class
  for (int c = 0; c < spec_.classes; ++c) {
    most = std::max(most, static_cast<double>(std::ranges::count(data_.labels, c)) /
                              static_cast<double>(data_.count()));
  }
  EXPECT_LE(found[1].accuracy, most + 1e-9);
  EXPECT_NEAR(found[0].share + found[2].share, 1, 1e-6);
}

// An equal net with an equal block of the tail counts as much.
TEST_F(NetSharesTest, EqualNetsHaveEqualShares) {
  Tensor weight = tail_->parameters()[0].var.mutable_value();
  const int64_t width = weight.dim(1) / 3;
  for (int64_t c = 0; c < weight.dim(0); ++c) {
    float* row = weight.data<float>() + c * 3 * width;
    std::copy_n(row, width, row + 2 * width);
  }
  const std::vector<NetShare> found = shares();
  EXPECT_NEAR(found[0].share, 0.5, 1e-4);
  EXPECT_NEAR(found[2].share, 0.5, 1e-4);
  EXPECT_EQ(found[0].accuracy, found[2].accuracy);
}

}  // namespace
}  // namespace ens
