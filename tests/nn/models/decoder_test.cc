// SPDX-License-Identifier: Apache-2.0
#include "nn/models/decoder.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

TEST(Decoder, GivesImagesFromFeatures) {
  for (const Shape& features :
       {Shape{16, 32, 32}, Shape{16, 16, 16}, Shape{64, 4, 4}, Shape{5, 1, 1}}) {
    Rng rng(1);
    const auto net = build_decoder(features, {3, 32, 32}, 8, rng);
    const Var x(uniform({2, features[0], features[1], features[2]}, 1), true);
    const Var y = net->forward(x);
    ASSERT_EQ(y.shape(), (Shape{2, 3, 32, 32})) << features.str();
    for (float f : y.value().to_vector()) EXPECT_TRUE(f >= 0 && f <= 1);
    mse(y, Var(uniform(y.shape(), 2))).backward();
    for (const NamedVar& p : net->parameters()) EXPECT_TRUE(p.var.grad().defined()) << p.name;
    EXPECT_TRUE(x.grad().defined());
  }
}

TEST(Decoder, RefusesFeaturesThatAreNoMap) {
  Rng rng(1);
  ENS_EXPECT_ERROR(build_decoder({512}, {3, 32, 32}, 8, rng), "[512]");
  ENS_EXPECT_ERROR(build_decoder({8, 5, 5}, {3, 32, 32}, 8, rng), "[8, 5, 5]");
  ENS_EXPECT_ERROR(build_decoder({8, 16, 16}, {3, 48, 48}, 8, rng), "power of two");
}

}  // namespace
}  // namespace ens::test
