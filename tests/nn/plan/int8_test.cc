// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/int8.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "nn/core/rng.h"
#include "nn/models/model.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"

namespace ens {
namespace {

Graph resnet(const ModelSpec& spec) {
  Rng rng(3);
  return lower(*build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng),
               spec.input_shape());
}

Tensor pixels(const Shape& one, int64_t count) {
  Tensor images = Tensor::empty(batched(count, one));
  Rng(5).fill_uniform(images.span<float>(), 0, 1);
  return images;
}

// A product by the plainest means: bias + scales * (the sum of integers), with signed inputs.
TEST(Int8, IsTheSumOfIntegersTimesItsScales) {
  Graph graph;
  graph.input = graph.add_value({3});
  GraphStep step{.kind = GraphStep::Kind::kLinear};
  step.input = graph.input;
  step.weight = Tensor::from({0.5f, -1.0f, 0.26f, 20, 30, -40}, {2, 3});
  step.bias = Tensor::from({0.125f, -8}, {2});
  step.input_max = 2.54f;
  graph.output = graph.append(step);
  const Int8Net net = quantize(graph);
  ASSERT_EQ(net.groups.size(), 1u);
  const auto w = net.groups[0].steps[0].layer.weight.span<int8_t>();
  EXPECT_EQ(std::vector<int>(w.begin(), w.end()), (std::vector<int>{64, -127, 33, 64, 95, -127}));
  EXPECT_FALSE(net.groups[0].input_unsigned);
  EXPECT_EQ(net.groups[0].largest_output(), (64 + 95 + 127) * 127);
  // Inputs in steps of 0.02, and one beyond the calibrated range.
  const auto y = run_int8(net, Tensor::from({0.2f, -0.4f, 9.0f}, {1, 3})).to_vector();
  EXPECT_NEAR(y[0], 0.125 + 0.02 / 127 * (64 * 10 + 127 * 20 + 33 * 127), 1e-5);
  EXPECT_NEAR(y[1], -8 + 0.02 * 40 / 127 * (64 * 10 - 95 * 20 - 127 * 127), 1e-4);
}

TEST(Int8, LayersThatReadOneValueAreOneGroupAndUnsignedAfterARelu) {
  ModelSpec spec{.width = 8, .image_size = 16};
  const auto groups = int8_groups(fuse(resnet(spec)));
  ASSERT_EQ(groups.size(), 18u);
  size_t layers = 0, pairs = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    layers += groups[g].steps.size();
    pairs += groups[g].steps.size() == 2;
    EXPECT_EQ(groups[g].input_unsigned, g > 0) << g;  // normalised images have both signs
  }
  EXPECT_EQ(layers, 21u);
  EXPECT_EQ(pairs, 3u);  // a strided convolution and its shortcut
}

TEST(Int8, RefusesTransformers) {
  ModelSpec spec{.architecture = "vit", .width = 8, .image_size = 32};
  EXPECT_THROW(quantize(fuse(resnet(spec))), Error);
}

TEST(Int8, IsCloseToFloat32AndTheSameInEveryBatch) {
  for (const char* architecture : {"resnet18", "resnet34", "vgg16", "vgg19", "mobilenet", "he19"}) {
    SCOPED_TRACE(architecture);
    ModelSpec spec{.architecture = architecture, .width = 8, .image_size = 32};
    const Graph graph = resnet(spec);
    Graph fused = fuse(graph);
    const Tensor images = pixels(spec.input_shape(), 6);
    set_input_ranges(fused, input_ranges(fused, images));
    const Int8Net net = quantize(fused);
    const auto exact = Plan(graph, Device{}, Dtype::kF32, 8).run(images).to_vector();
    const auto got = run_int8(net, images).to_vector();
    double error = 0, power = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += (got[i] - exact[i]) * (got[i] - exact[i]);
      power += exact[i] * exact[i];
    }
    EXPECT_LT(std::sqrt(error / power), 0.08);
    EXPECT_GT(error, 0);
    const auto third = run_int8(net, images.rows(2, 1)).to_vector();
    EXPECT_TRUE(std::equal(third.begin(), third.end(), got.begin() + 2 * spec.classes));
  }
}

TEST(Int8, RefusesWhatIsNotCalibratedOrHasNoLayer) {
  EXPECT_THROW(quantize(fuse(resnet({.width = 4, .image_size = 16}))), Error);
  Graph nothing;
  nothing.input = nothing.output = nothing.add_value({3});
  EXPECT_THROW(quantize(nothing), Error);
}

}  // namespace
}  // namespace ens
