// SPDX-License-Identifier: Apache-2.0
// Whole networks against PyTorch definitions written independently
// (tests/nn/modules/make_torch_reference.py): results, loss, gradients of the image and of every
// parameter, running statistics, parameter counts and FLOPs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/models/model.h"
#include "nn/plan/plan.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

const Reference& reference() {
  static const Reference r("tests/nn/modules/data/networks.bin");
  return r;
}

ModelSpec spec_of(const std::string& architecture, int width, int classes) {
  ModelSpec s;
  s.architecture = architecture;
  s.width = width;
  s.classes = classes;
  return s;
}

std::shared_ptr<Sequential> whole(const ModelSpec& spec, uint64_t seed = 1) {
  Rng rng(seed);
  return build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
}

// Written as [millions, rest].
int64_t stored_count(const std::string& name) {
  const std::vector<float> v = reference()[name].to_vector();
  return static_cast<int64_t>(v[0]) * 1000000 + static_cast<int64_t>(v[1]);
}

int64_t parameters(const ModelSpec& spec) {
  int64_t total = 0;
  for (const CellInfo& c : describe_cells(spec)) total += c.parameters;
  return total;
}

int64_t flops(const ModelSpec& spec) {
  int64_t total = 0;
  for (const CellInfo& c : describe_cells(spec)) total += c.flops;
  return total;
}

TEST(NetworkReference, ParameterCounts) {
  for (const char* architecture : {"resnet18", "vgg16"}) {
    for (int width : {64, 16}) {
      for (int classes : {10, 100}) {
        const std::string name = std::string("count.") + architecture + "." +
                                 std::to_string(width) + "." + std::to_string(classes);
        EXPECT_EQ(parameters(spec_of(architecture, width, classes)), stored_count(name)) << name;
      }
    }
  }
  ModelSpec large = spec_of("vgg16", 64, 10);
  large.image_size = 64;
  EXPECT_EQ(parameters(large), stored_count("count.vgg16_64px.64.10"));
  // The well-known figure of ResNet-18 for CIFAR-10.
  EXPECT_EQ(parameters(spec_of("resnet18", 64, 10)), 11173962);
}

TEST(NetworkReference, Flops) {
  ModelSpec spec = spec_of("resnet18", 64, 10);
  EXPECT_EQ(flops(spec), stored_count("flops.resnet18_pool"));
  spec.stem_pool = false;
  EXPECT_EQ(flops(spec), stored_count("flops.resnet18"));
  EXPECT_EQ(flops(spec_of("vgg16", 64, 10)), stored_count("flops.vgg16"));
}

TEST(NetworkReference, CountsOfTheOtherArchitectures) {
  for (const char* architecture : {"resnet34", "vgg19", "mobilenet"}) {
    const ModelSpec spec =
        spec_of(architecture, std::string(architecture) == "mobilenet" ? 32 : 64, 10);
    EXPECT_EQ(parameters(spec), stored_count(std::string("count.") + architecture)) << architecture;
    EXPECT_EQ(flops(spec), stored_count(std::string("flops.") + architecture)) << architecture;
  }
}

void check(const std::string& name, const ModelSpec& spec, bool train) {
  const Reference& want = reference();
  const auto net = whole(spec);
  init_from_names(*net, name);
  // The input normalisation is a setting, (x - 0.5) / 0.25, and the count of dropout's calls is no
  // weight.
  for (const NamedTensor& b : net->buffers()) {
    Tensor t = b.tensor;
    if (b.name.ends_with("normalize.scale")) t.fill(4);
    if (b.name.ends_with("normalize.shift")) t.fill(-2);
    if (b.name.ends_with("calls")) t.fill(0);
  }
  net->train(train);
  Tensor images = pattern(name + ".x", batched(4, spec.input_shape()));
  for (float& f : images.span<float>()) f = 0.5f + 0.5f * f;
  const Var x(images, true);
  const Var logits = net->forward(x);
  const std::vector<int32_t> labels{1, 7, 3, 0};
  const Var loss = softmax_cross_entropy(logits, Tensor::from_labels(labels));
  EXPECT_TRUE(near(logits.value(), want[name + ".logits"], 2e-5));
  EXPECT_TRUE(near(loss.value(), want[name + ".loss"], 2e-5));
  loss.backward();
  EXPECT_TRUE(near(x.grad().rows(0, 1), want[name + ".dx"], 5e-4));
  for (const NamedVar& p : net->parameters()) {
    const std::vector<float> stored = want[name + ".grad." + p.name].to_vector();
    const std::vector<float> g = p.var.grad().to_vector();
    const std::vector<float> direction = pattern("direction." + p.name, p.var.shape()).to_vector();
    double squares = 0, along = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      squares += static_cast<double>(g[i]) * g[i];
      along += static_cast<double>(g[i]) * direction[i];
    }
    const double norm = stored[0];
    EXPECT_GT(norm, 0) << p.name;
    EXPECT_NEAR(std::sqrt(squares), norm, 1e-4 * norm) << p.name;
    EXPECT_NEAR(along, stored[1], 2e-4 * norm) << p.name;
  }
  EXPECT_EQ(want.names(name + ".grad.").size(), net->parameters().size());
  for (const NamedTensor& b : net->buffers()) {
    if (train && b.name.find("running") != std::string::npos) {
      EXPECT_TRUE(near(b.tensor, want[name + ".after." + b.name], 5e-5)) << b.name;
    }
  }
  if (train) return;
  // The same numbers, served.
  Plan plan(lower(*net, spec.input_shape()), {}, Dtype::kF32, 4);
  EXPECT_TRUE(near(plan.run(images), want[name + ".logits"], 5e-5));
}

TEST(NetworkReference, ResNet18InEvaluation) {
  check("resnet18_eval", spec_of("resnet18", 8, 10), false);
}

TEST(NetworkReference, ResNet18InTraining) {
  ModelSpec spec = spec_of("resnet18", 8, 10);
  spec.image_size = 16;
  spec.stem_pool = false;
  check("resnet18_train", spec, true);
}

TEST(NetworkReference, Vgg16InEvaluation) { check("vgg16_eval", spec_of("vgg16", 8, 10), false); }

TEST(NetworkReference, ResNet34InEvaluation) {
  check("resnet34_eval", spec_of("resnet34", 4, 10), false);
}

TEST(NetworkReference, Vgg19InEvaluation) { check("vgg19_eval", spec_of("vgg19", 4, 10), false); }

TEST(NetworkReference, MobileNetInEvaluation) {
  check("mobilenet_eval", spec_of("mobilenet", 4, 10), false);
}

TEST(NetworkReference, MobileNetInTraining) {
  ModelSpec spec = spec_of("mobilenet", 4, 10);
  spec.stem_pool = false;
  check("mobilenet_train", spec, true);
}

TEST(NetworkReference, VisionTransformerInEvaluation) {
  check("vit_eval", spec_of("vit", 8, 10), false);
}

TEST(NetworkReference, VisionTransformerInTraining) {
  ModelSpec spec = spec_of("vit", 8, 10);
  spec.image_size = 16;
  check("vit_train", spec, true);
}

ModelSpec of_codes(int count, int elements) {
  ModelSpec spec = spec_of("vit", 8, 10);
  spec.tokens = count;
  spec.channels = elements;
  spec.mean = {0.5f};
  spec.stddev = {0.25f};
  return spec;
}

TEST(NetworkReference, VisionTransformerOfCodes) {
  check("vit_codes_train", of_codes(9, 20), true);
  check("vit_codes_eval", of_codes(16, 12), false);
}

// NeuraCrypt's codes come in another order for every image.
TEST(VisionTransformer, TheOrderOfCodesSaysNothing) {
  const ModelSpec spec = of_codes(16, 12);
  const auto net = whole(spec);
  net->train(false);
  const Tensor one = pattern("codes", {1, 16, 12});
  Tensor two = Tensor::empty({2, 16, 12});
  for (int64_t i = 0; i < 16; ++i) {
    const auto code = one.span<float>().subspan(static_cast<size_t>(i * 12), 12);
    std::ranges::copy(code, two.data<float>() + i * 12);
    std::ranges::copy(code, two.data<float>() + (16 + i * 7 % 16) * 12);
  }
  const std::vector<float> trained = net->forward(Var(two)).value().to_vector();
  const std::vector<float> served =
      Plan(lower(*net, spec.input_shape()), {}, Dtype::kF32, 2).run(two).to_vector();
  for (size_t k = 0; k < 10; ++k) {
    EXPECT_NEAR(trained[k], trained[10 + k], 1e-5);
    EXPECT_NEAR(served[k], served[10 + k], 1e-5);
    EXPECT_NEAR(served[k], trained[k], 1e-5);
  }
  EXPECT_GT(std::abs(trained[0] - trained[1]), 1e-3);
}

TEST(VisionTransformer, CodesOfAnImpossibleFormAreRefused) {
  ModelSpec spec = of_codes(16, 12);
  spec.architecture = "resnet18";
  EXPECT_THROW(check(spec, {0, 0}), Error);
  spec = of_codes(16, 1 << 20);
  EXPECT_THROW(check(spec, {0, 0}), Error);
  spec = of_codes(16, 12);
  spec.mean = {0, 0};
  EXPECT_THROW(check(spec, {0, 0}), Error);
}

}  // namespace
}  // namespace ens::test
