// SPDX-License-Identifier: Apache-2.0
// Weights by torchvision's names, against torchvision itself: keys, shapes and logits that
// make_torchvision_reference.py stored.
#include "nn/models/torchvision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

const Reference& reference() {
  static const Reference r("tests/nn/models/data/torchvision.bin");
  return r;
}

// All entries of torchvision's state_dict, with the numbers that the script gave them.
std::map<std::string, Tensor> weights_of(const std::string& net) {
  std::map<std::string, Tensor> weights;
  for (const std::string& key : reference().names(net + ".shape.")) {
    std::vector<int64_t> dims;
    for (float d : reference()[net + ".shape." + key].to_vector()) {
      dims.push_back(static_cast<int64_t>(d));
    }
    weights[key] = key.ends_with("num_batches_tracked")
                       ? Tensor::full(Shape(dims), 7, Dtype::kI32)
                       : init_from_name(net + "." + key, Shape(dims));
  }
  return weights;
}

ModelSpec spec_of(const std::string& net, int size) {
  ModelSpec spec;
  spec.image_size = size;
  spec.architecture = net == "vgg16_bn" ? "vgg16" : net;
  spec.hidden = net == "vgg16_bn" ? 24 : 0;
  spec.stem_kernel = net == "vgg16_bn" ? 3 : 7;
  return spec;
}

std::shared_ptr<Sequential> whole(const ModelSpec& spec) {
  Rng rng(1);
  return build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
}

// The network of `spec` with `weights`; what torchvision does not store stays as it is.
std::shared_ptr<Sequential> loaded(const ModelSpec& spec,
                                   const std::map<std::string, Tensor>& weights) {
  const auto net = whole(spec);
  std::vector<NamedTensor> state = net->state();
  for (const NamedTensor& entry : from_torchvision(spec, weights, "test")) {
    const auto at = std::ranges::find(state, entry.name, &NamedTensor::name);
    EXPECT_NE(at, state.end()) << entry.name;
    if (at != state.end()) at->tensor = entry.tensor;
  }
  net->load_state(state, "test");
  net->train(false);
  return net;
}

struct Case {
  const char* net;
  int size;
};

class Torchvision : public testing::TestWithParam<Case> {};

TEST_P(Torchvision, LogitsAreThoseOfTorchvision) {
  const auto [name, size] = GetParam();
  const auto net = loaded(spec_of(name, size), weights_of(name));
  const std::string number = std::to_string(size);
  Tensor images = pattern(std::string(name) + ".x" + number, {2, 3, size, size});
  for (float& f : images.span<float>()) f = 0.5f + 0.5f * f;
  NoGrad guard;
  EXPECT_TRUE(near(net->forward(Var(images)).value(),
                   reference()[std::string(name) + ".logits" + number], 1e-4));
}

// VGG: 32 and 96 pixels end in maps of 1x1 and 3x3, which torchvision pools to 7x7.
INSTANTIATE_TEST_SUITE_P(All, Torchvision,
                         testing::Values(Case{"resnet18", 64}, Case{"resnet34", 64},
                                         Case{"vgg16_bn", 32}, Case{"vgg16_bn", 96},
                                         Case{"vgg16_bn", 224}),
                         [](const auto& c) {
                           return std::string(c.param.net) + "_" + std::to_string(c.param.size);
                         });

TEST(TorchvisionOut, KeysAndBitsComeBack) {
  for (const char* name : {"resnet18", "resnet34", "vgg16_bn"}) {
    const ModelSpec spec = spec_of(name, 224);
    std::map<std::string, Tensor> want = weights_of(name);
    const std::map<std::string, Tensor> got =
        to_torchvision(spec, loaded(spec, want)->state(), "test");
    std::erase_if(want, [](const auto& e) { return e.first.ends_with("num_batches_tracked"); });
    for (const auto& [key, tensor] : want) {
      ASSERT_TRUE(got.contains(key)) << key;
      EXPECT_EQ(got.at(key).shape(), tensor.shape()) << key;
      // VGG's biases are part of the means: the same function.
      const bool moved =
          std::string(name) == "vgg16_bn" &&
          (key.ends_with("running_mean") || (key.starts_with("features") && key.ends_with("bias")));
      if (!moved) EXPECT_EQ(got.at(key).to_vector(), tensor.to_vector()) << name << " " << key;
    }
    EXPECT_EQ(got.size(), want.size()) << name;
  }
}

TEST(TorchvisionNames, PrefixesOfWrappersAreRemoved) {
  std::map<std::string, Tensor> wrapped;
  for (const auto& [key, tensor] : weights_of("resnet18")) {
    wrapped["_orig_mod.module." + key] = tensor;
  }
  EXPECT_EQ(from_torchvision(spec_of("resnet18", 64), wrapped, "test").size(),
            from_torchvision(spec_of("resnet18", 64), weights_of("resnet18"), "test").size());
  wrapped["conv1.weight"] = wrapped["_orig_mod.module.conv1.weight"];
  EXPECT_THROW(from_torchvision(spec_of("resnet18", 64), wrapped, "test"), Error);
}

// ---- what does not fit is refused with the key, both shapes and the cause

using Weights = std::map<std::string, Tensor>;

void expect_refused(const ModelSpec& spec, const Weights& weights,
                    const std::vector<std::string>& parts) {
  try {
    from_torchvision(spec, weights, "net.safetensors");
    ADD_FAILURE() << "accepted; expected '" << parts[0] << "'";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos);
    EXPECT_NE(what.find("net.safetensors"), std::string::npos) << what;
    for (const std::string& part : parts) EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST(TorchvisionRefuses, OtherNetworksWithTheLikelyCause) {
  const Weights resnet18 = weights_of("resnet18"), vgg = weights_of("vgg16_bn");
  const auto with = [](ModelSpec spec, auto change) {
    change(spec);
    return spec;
  };
  const ModelSpec plain = spec_of("resnet18", 64);
  expect_refused(with(plain, [](ModelSpec& s) { s.stem_kernel = 3; }), resnet18,
                 {"'conv1.weight'", "[64, 3, 7, 7]", "[64, 3, 3, 3]", "model.stem_kernel=7"});
  expect_refused(with(plain, [](ModelSpec& s) { s.width = 32; }), resnet18, {"model.width=64"});
  expect_refused(with(plain, [](ModelSpec& s) { s.classes = 1000; }), resnet18,
                 {"'fc.weight'", "[10, 512]", "[1000, 512]", "10 classes", "1000"});
  expect_refused(with(plain,
                      [](ModelSpec& s) {
                        s.channels = 1;
                        s.mean = s.stddev = {0.5f};
                      }),
                 resnet18, {"3 channels", "has 1"});
  expect_refused(spec_of("resnet34", 64), resnet18, {"missing", "ResNet-18"});
  expect_refused(plain, weights_of("resnet34"), {"fits nothing", "architecture=resnet34"});
  expect_refused(plain, vgg, {"architecture=vgg16"});
  expect_refused(spec_of("vgg16_bn", 32), resnet18, {"resnet18 or resnet34"});
  expect_refused(with(spec_of("vgg16_bn", 32), [](ModelSpec& s) { s.hidden = 0; }), vgg,
                 {"classifier.0", "model.hidden=24"});
  ModelSpec he19;
  he19.architecture = "he19";
  expect_refused(he19, resnet18, {"he19"});

  Weights without_norm = vgg;
  std::erase_if(without_norm, [](const auto& e) { return e.second.rank() == 1; });
  expect_refused(spec_of("vgg16_bn", 32), without_norm, {"without batch norm"});
  Weights bottleneck = resnet18;
  bottleneck["layer1.0.conv3.weight"] = Tensor::zeros({256, 64, 1, 1});
  expect_refused(plain, bottleneck, {"layer1.0.conv3.weight", "bottleneck"});
  expect_refused(plain, {}, {"conv1.weight", "missing"});
}

TEST(TorchvisionRefuses, NumbersThatNoNetworkHas) {
  const ModelSpec spec = spec_of("resnet18", 64);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Weights weights = weights_of("resnet18");
    weights["layer2.0.downsample.0.weight"].data<float>()[5] = bad;
    expect_refused(spec, weights, {"'layer2.0.downsample.0.weight'", "NaN"});
  }
  Weights weights = weights_of("resnet18");
  weights["bn1.running_var"].data<float>()[0] = -1;
  expect_refused(spec, weights, {"'bn1.running_var'", "negative"});
}

}  // namespace
}  // namespace ens::test
