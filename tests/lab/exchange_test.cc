// SPDX-License-Identifier: Apache-2.0
// Networks of torchvision's in and out again: import, run folder, edge and cloud, export, PyTorch.
#include "lab/exchange.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "edge/pipeline.h"
#include "experiment/run_dir.h"
#include "lab/scenarios/split_training.h"
#include "nn/io/safetensors.h"
#include "nn/models/torchvision.h"
#include "nn/plan/plan.h"
#include "proto/results.h"
#include "tests/support/compare.h"
#include "tests/support/errors.h"
#include "tests/support/peers.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

namespace fs = std::filesystem;

RunConfig given(const std::vector<std::string>& settings) {
  RunConfig config;
  apply_overrides({"data.name=shapes", "data.train_limit=100", "data.test_limit=10", "device=cpu",
                   "dtype=float32"},
                  config);
  apply_overrides(settings, config);
  return config;
}

// Logits of a run for images, as edge and cloud compute them together.
Tensor logits_of(const fs::path& run, const Tensor& images) {
  const CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  EdgePipeline edge(read_edge_bundle(run / "edge.h5"), static_cast<int>(images.dim(0)));
  std::vector<Graph> nets;
  for (const auto& body : cloud.bodies) {
    nets.push_back(lower(*body, smashed_shape(cloud.info.model, cloud.info.split)));
  }
  Plan plan(nets, Device{}, Dtype::kF32, images.dim(0));
  return edge.finish(plan.run_all(edge.smash(images)));
}

// A network of ours as a weights file: for tests that need no PyTorch.
fs::path weights_file(const fs::path& file, const RunConfig& config, uint64_t seed) {
  ModelSpec spec;
  spec.width = config.model().width();
  Rng rng(seed);
  const auto net = build_cells(spec, 0, 6, rng);
  write_safetensors(file, to_torchvision(spec, net->state(), "test"), false);
  return file;
}

struct Case {
  const char *net, *architecture;
  int size, hidden;
};

class Exchange : public testing::TestWithParam<Case> {};

TEST_P(Exchange, LogitsAndWeightsGoThroughUnchanged) {
  const auto [net, architecture, size, hidden] = GetParam();
  const TempDir dir;
  const std::string folder = dir.path();
  const std::vector<std::string> make{"make", net, std::to_string(size), std::to_string(hidden),
                                      folder};
  ENS_PYTHON_OR_SKIP(made, "tests/lab/exchange.py", make);
  ASSERT_EQ(made.code, 0) << made.out;
  const std::vector<WeightsFile> files{read_weights(dir / "net.safetensors")};
  const RunConfig config = import_config(
      given({"model.architecture=" + std::string(architecture),
             "data.image_size=" + std::to_string(size), "model.hidden=" + std::to_string(hidden),
             hidden > 0 ? "model.stem_kernel=3" : "model.stem_kernel=7", "model.head_cells=2",
             "model.mean=0.485,0.456,0.406", "model.stddev=0.229,0.224,0.225"}),
      files);
  const fs::path run = dir / "run";
  ASSERT_TRUE(train_run(config, run, {}, files));
  const auto example = read_safetensors(dir / "example.safetensors");
  EXPECT_TRUE(near(logits_of(run, example.at("images")), example.at("logits"), 1e-4));

  export_run(run, dir / "out", ExchangeFormat::kSafetensors, /*secrets=*/true);
  const std::vector<std::string> load{"load", net, std::to_string(hidden), folder,
                                      dir / "out/net.safetensors"};
  const PeerOutcome loaded = run_python("tests/lab/exchange.py", load);
  EXPECT_EQ(loaded.code, 0) << loaded.out;

  export_run(run, dir / "out", ExchangeFormat::kOnnx, /*secrets=*/true);
  const Tensor& images = example.at("images");
  write_file_atomically(dir / "images", {static_cast<const char*>(images.raw()), images.bytes()},
                        false);
  const std::vector<std::string> compute{
      dir / "out/net.onnx", dir / "images",      dir / "logits", "8", "3",
      std::to_string(size), std::to_string(size)};
  ENS_NODE_OR_SKIP(computed, "tests/nn/io/run_onnx.js", compute);
  ASSERT_EQ(computed.code, 0) << computed.out;
  const std::string bytes = read_file(dir / "logits");
  ASSERT_EQ(bytes.size(), 8u * 10 * 4);
  EXPECT_TRUE(
      near(Tensor::from(std::span(reinterpret_cast<const float*>(bytes.data()), 80), {8, 10}),
           example.at("logits"), 1e-4));
}

INSTANTIATE_TEST_SUITE_P(All, Exchange,
                         testing::Values(Case{"resnet18", "resnet18", 64, 0},
                                         Case{"resnet34", "resnet34", 32, 0},
                                         Case{"vgg16_bn", "vgg16", 224, 16}),
                         [](const auto& c) { return std::string(c.param.net); });

// Imported nets become stage 1's; stage 2 is trained around them. What is exported computes what
// edge and cloud do.
TEST(ExchangeEnsemble, IsTrainedAroundImportedNets) {
  const TempDir dir;
  const RunConfig asked =
      given({"model.width=4", "ensemble.selected=2", "stage2.epochs=1", "stage2.batch=16"});
  std::vector<WeightsFile> files;
  for (uint64_t seed : {1, 2, 3}) {
    files.push_back(
        read_weights(weights_file(dir / (std::to_string(seed) + ".safetensors"), asked, seed)));
  }
  const RunConfig config = import_config(asked, files);
  EXPECT_EQ(config.ensemble().nets(), 3);
  const fs::path run = dir / "run";
  ASSERT_TRUE(train_run(config, run, {}, files));
  EXPECT_FALSE(train_run(config, run, {}, files));  // done already
  EXPECT_EQ(read_run_config(run).model().imported().size(), 3 * 64 + 2u);

  const CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  for (size_t i = 0; i < 3; ++i) {
    for (const NamedTensor& entry : cloud.bodies[i]->state()) {
      const std::string key = torchvision_name(cloud.info.model, entry.name);
      EXPECT_EQ(entry.tensor.to_vector(), files[i].weights.at(key).to_vector()) << key;
    }
  }

  // Only bodies without --secrets; secrets are for their owner alone.
  const auto names = [](const Exported& exported) {
    std::vector<std::string> all;
    for (const auto& file : exported.files) all.push_back(file.filename());
    return all;
  };
  EXPECT_EQ(names(export_run(run, dir / "out", ExchangeFormat::kOnnx, false)),
            (std::vector<std::string>{"body0.onnx", "body1.onnx", "body2.onnx"}));
  const Exported all = export_run(run, dir / "out", ExchangeFormat::kOnnx, true);
  EXPECT_EQ(names(all), (std::vector<std::string>{"body0.onnx", "body1.onnx", "body2.onnx",
                                                  "head.onnx", "tail.onnx"}));
  EXPECT_TRUE(all.left_out.empty());
  EXPECT_EQ(names(export_run(run, dir / "out", ExchangeFormat::kSafetensors, true)).back(),
            "protection.safetensors");
  for (const auto& entry : fs::directory_iterator(dir / "out")) {
    struct stat info {};
    ASSERT_EQ(::stat(entry.path().c_str(), &info), 0);
    const bool body = entry.path().filename().string().starts_with("body");
    EXPECT_EQ(info.st_mode & 0777, body ? 0644u : 0600u) << entry.path();
  }
  const EdgeBundle edge = read_edge_bundle(run / "edge.h5");
  const auto protection = read_safetensors(dir / "out/protection.safetensors");
  EXPECT_EQ(protection.at("00.fixed_noise").to_vector(), edge.protection[0].values.to_vector());
  const std::vector<float> selected = protection.at("selected").to_vector();
  EXPECT_TRUE(std::ranges::equal(selected, edge.selector.selected()));

  // Head, then the selected bodies, then the tail, by ONNX Runtime.
  const Tensor images = Tensor::full({3, 3, 32, 32}, 0.25f);
  std::string bytes(static_cast<const char*>(images.raw()), images.bytes());
  const auto compute = [&](const std::string& model, const Shape& one) {
    write_file_atomically(dir / "in", bytes, false);
    std::vector<std::string> arguments{dir / "out" / (model + ".onnx"), dir / "in", dir / "result",
                                       "3"};
    for (const int64_t dim : one.dims()) arguments.push_back(std::to_string(dim));
    const PeerOutcome outcome = run_node("tests/nn/io/run_onnx.js", arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.out;
    return outcome.missing.empty() && outcome.code == 0 ? read_file(dir / "result")
                                                        : outcome.missing;
  };
  const Shape sent = smashed_shape(cloud.info.model, cloud.info.split);
  const PeerOutcome probe = run_node("tests/nn/io/run_onnx.js", {});
  if (!probe.missing.empty()) ENS_SKIP_OR_FAIL(probe.missing);
  bytes = compute("head", cloud.info.model.input_shape());
  const std::string feature = bytes;
  std::vector<std::string> outputs;
  for (const int net : edge.selector.selected()) {
    bytes = feature;
    outputs.push_back(compute("body" + std::to_string(net), sent));
  }
  const size_t row = outputs[0].size() / 3;
  bytes.clear();
  for (size_t i = 0; i < 3; ++i) {
    for (const std::string& output : outputs) bytes += output.substr(i * row, row);
  }
  const std::string result = compute("tail", Shape{static_cast<int64_t>(row / 2)});
  const Tensor want = logits_of(run, images);
  ASSERT_EQ(result.size(), want.bytes());
  EXPECT_TRUE(near(Tensor::from(std::span(reinterpret_cast<const float*>(result.data()),
                                          static_cast<size_t>(want.numel())),
                                want.shape()),
                   want, 1e-4));
}

using test::error_of;

TEST(ExchangeRefuses, WhatCannotBe) {
  const TempDir dir;
  const RunConfig asked = given({"model.width=4"});
  const std::vector<WeightsFile> one{read_weights(weights_file(dir / "net.safetensors", asked, 1))};
  const auto expect = [](const std::string& error, const std::string& part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  for (const char* kind : {"nopeek", "dr_single", "single"}) {
    expect(error_of([&] { import_config(given({"protection.kind=" + std::string(kind)}), one); }),
           "trained into the network");
  }
  expect(error_of([&] {
           import_config(given({"ensemble.nets=4", "protection.kind=ensembler"}), one);
         }),
         "1 weights files for 4");
  expect(error_of([&] { export_run(dir / "none", dir / "out", ExchangeFormat::kOnnx, false); }),
         "not a finished run");
  expect(error_of([&] {
           train_run(import_config(given({"model.width=4", "model.mean=0.5"}), one), dir / "run",
                     {}, one);
         }),
         "1 numbers in model.mean");
  // Nothing trains in the place of nets that were not imported, whatever the configuration says.
  const RunConfig config = import_config(asked, one);
  expect(error_of([&] { train_run(config, dir / "run"); }), "not imported yet");
  EXPECT_TRUE(train_run(config, dir / "run", {}, one));
  // Other weights are another run.
  const std::vector<WeightsFile> other{
      read_weights(weights_file(dir / "other.safetensors", asked, 2))};
  expect(error_of([&] { train_run(import_config(asked, other), dir / "run", {}, other); }),
         "model.imported");
}

}  // namespace
}  // namespace ens::test
