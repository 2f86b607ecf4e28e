// SPDX-License-Identifier: Apache-2.0
// ONNX files, computed by others: OpenCV's dnn, ONNX Runtime (node), and looked at by ONNX's
// checker.
#include "nn/io/onnx.h"

#include <gtest/gtest.h>

#include <fstream>
#ifdef ENS_HAS_OPENCV_DNN
#include <opencv2/dnn.hpp>
#endif

#include "base/error.h"
#include "base/files.h"
#include "nn/models/model.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "tests/support/compare.h"
#include "tests/support/peers.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

// Weights as after a training: fresh batch norms are the identity and would hide mistakes.
std::shared_ptr<Sequential> net_of(const ModelSpec& spec, int first, int last, uint64_t seed) {
  Rng rng(seed);
  auto net = build_cells(spec, first, last, rng);
  for (NamedTensor& entry : net->state()) {
    if (entry.name.ends_with("running_var")) {
      rng.fill_uniform(entry.tensor.span<float>(), 0.5f, 1.5f);
    } else if (entry.name.ends_with("running_mean") || entry.name.ends_with("bias")) {
      rng.fill_uniform(entry.tensor.span<float>(), -0.2f, 0.2f);
    }
  }
  net->train(false);
  return net;
}

Tensor inputs(int64_t batch, const Shape& one) { return uniform(batched(batch, one), 5); }

// A model and what it must yield: a case for every runtime.
struct Model {
  std::string name;
  std::vector<Graph> nets;
  Tensor offset;
};

std::vector<Model> models() {
  std::vector<Model> all;
  for (const char* architecture : {"resnet18", "vgg16", "he19"}) {
    ModelSpec spec;
    spec.architecture = architecture;
    spec.width = 4;
    spec.stem_kernel = architecture == std::string("resnet18") ? 7 : 3;
    const int cells = static_cast<int>(cell_names(spec).size());
    const Graph graph = lower(*net_of(spec, 0, cells, 1), spec.input_shape());
    all.push_back({std::string(architecture), {graph}, {}});
    all.push_back({std::string(architecture) + "_fused", {fuse(graph)}, {}});
  }
  ModelSpec spec;
  spec.width = 4;
  const Split split{1, 1};
  const Graph head = lower(*net_of(spec, 0, split.head, 1), spec.input_shape());
  const Shape sent = head.shape(head.output);
  all.push_back({"head_with_noise", {fuse(head)}, uniform(sent, 3)});
  std::vector<Graph> bodies;
  for (uint64_t seed : {1, 2, 3}) bodies.push_back(fuse(lower(*net_of(spec, 1, 5, seed), sent)));
  all.push_back({"bodies", bodies, {}});

  // The steps that no model of ours has.
  Graph rest;
  rest.input = rest.add_value({6, 9, 9});
  const auto step = [&](GraphStep::Kind kind, int input) {
    GraphStep s{.kind = kind, .input = input};
    return s;
  };
  GraphStep conv = step(GraphStep::Kind::kConv, rest.input);
  conv.weight = uniform({4, 3, 3, 3}, 1);
  conv.bias = uniform({4}, 2);
  conv.conv = {.stride = 2, .padding = 2, .dilation = 2, .groups = 2};
  GraphStep average = step(GraphStep::Kind::kAvgPool, rest.append(conv));
  average.pool = {3, 2, 1};
  GraphStep leaky = step(GraphStep::Kind::kActivation, rest.append(average));
  leaky.activation = UnaryOp::kLeakyRelu;
  leaky.a = 0.2f;
  GraphStep affine = step(GraphStep::Kind::kActivation, rest.append(leaky));
  affine.activation = UnaryOp::kAffine;
  affine.a = 0.3f;
  affine.b = 0.7f;
  GraphStep last = step(GraphStep::Kind::kActivation, rest.append(affine));
  for (const UnaryOp op : {UnaryOp::kTanh, UnaryOp::kSquare, UnaryOp::kExp, UnaryOp::kSqrt,
                           UnaryOp::kLog, UnaryOp::kAbs, UnaryOp::kSigmoid}) {
    last.activation = op;
    last.input = rest.append(last);
  }
  rest.output = rest.append(step(GraphStep::Kind::kFlatten, last.input));
  all.push_back({"other_steps", {rest}, {}});
  return all;
}

// [nets, batch, ...], by our plan; the offset is added.
Tensor ours(const Model& model, const Tensor& input) {
  Plan plan(model.nets, Device{}, Dtype::kF32, input.dim(0));
  Tensor all = plan.run_all(input).clone();
  if (model.offset.defined()) {
    const std::vector<float> offset = model.offset.to_vector();
    for (int64_t i = 0; i < all.numel(); ++i) {
      all.data<float>()[i] += offset[static_cast<size_t>(i) % offset.size()];
    }
  }
  return all;
}

void write(const Model& model, const std::filesystem::path& file) {
  write_onnx(file, model.nets, {.name = model.name, .offset = model.offset});
}

const Shape& input_of(const Model& model) { return model.nets[0].shape(model.nets[0].input); }

TEST(Onnx, PassesTheChecker) {
  const TempDir dir;
  std::vector<std::string> files;
  for (const Model& model : models()) {
    files.push_back((dir / (model.name + ".onnx")).string());
    write(model, files.back());
  }
  ENS_PYTHON_OR_SKIP(outcome, "tests/nn/io/check_onnx.py", files);
  EXPECT_EQ(outcome.code, 0) << outcome.out;
}

TEST(Onnx, OpenCvComputesTheSame) {
#ifndef ENS_HAS_OPENCV_DNN
  ENS_SKIP_OR_FAIL("OpenCV's dnn is not there: apt-get install libopencv-dnn-dev");
#else
  const TempDir dir;
  for (const Model& model : models()) {
    const std::string file = (dir / "model.onnx").string();
    write(model, file);
    cv::dnn::Net net = cv::dnn::readNetFromONNX(file);
    for (const int64_t batch : {1, 5}) {
      Tensor input = inputs(batch, input_of(model));
      const auto dims = input.shape().dims();
      const std::vector<int> sizes(dims.begin(), dims.end());
      net.setInput(cv::Mat(sizes, CV_32F, input.raw()));
      std::vector<cv::Mat> outputs;
      net.forward(outputs, net.getUnconnectedOutLayersNames());
      ASSERT_EQ(outputs.size(), model.nets.size()) << model.name;
      const Tensor want = ours(model, input);
      for (size_t i = 0; i < outputs.size(); ++i) {
        const cv::Mat out = outputs[i].isContinuous() ? outputs[i] : outputs[i].clone();
        const Tensor row = want.rows(static_cast<int64_t>(i), 1);
        ASSERT_EQ(static_cast<int64_t>(out.total()), row.numel()) << model.name;
        const Tensor got = Tensor::from(
            std::span(reinterpret_cast<const float*>(out.data), out.total()), row.shape());
        EXPECT_TRUE(near(got, row, 1e-4)) << model.name << ", batch " << batch;
      }
    }
  }
#endif
}

TEST(Onnx, OnnxRuntimeComputesTheSame) {
  const TempDir dir;
  for (const Model& model : models()) {
    const auto file = dir / "model.onnx";
    write(model, file);
    const Tensor input = inputs(3, input_of(model));
    write_file_atomically(dir / "input", {static_cast<const char*>(input.raw()), input.bytes()},
                          false);
    std::vector<std::string> arguments{file, dir / "input", dir / "output"};
    for (const int64_t dim : input.shape().dims()) arguments.push_back(std::to_string(dim));
    ENS_NODE_OR_SKIP(outcome, "tests/nn/io/run_onnx.js", arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.out;
    const Tensor want = ours(model, input);
    const std::string bytes = read_file(dir / "output");  // all outputs in order
    ASSERT_EQ(bytes.size(), want.bytes()) << model.name;
    const Tensor got = Tensor::from(
        std::span(reinterpret_cast<const float*>(bytes.data()), bytes.size() / 4), want.shape());
    EXPECT_TRUE(near(got, want, 1e-4)) << model.name;
  }
}

TEST(Onnx, RefusesNetsOfDifferentInputs) {
  const TempDir dir;
  Graph a, b;
  for (Graph* g : {&a, &b}) {
    g->input = g->add_value(g == &a ? Shape{4} : Shape{5});
    g->output = g->append({.kind = GraphStep::Kind::kActivation, .input = g->input});
  }
  EXPECT_THROW(write_onnx(dir / "model.onnx", {a, b}), Error);
  EXPECT_FALSE(std::filesystem::exists(dir / "model.onnx"));
}

}  // namespace
}  // namespace ens::test
