// SPDX-License-Identifier: Apache-2.0
// Models as cells: names, shapes, splits, the parts against the whole, and serving against
// evaluation.
#include "nn/models/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/plan/plan.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

// Narrow, so that many splits of both architectures can be tried.
ModelSpec small(const std::string& architecture) {
  ModelSpec s;
  s.architecture = architecture;
  s.width = 4;
  s.classes = 7;
  return s;
}

int cells(const ModelSpec& spec) { return static_cast<int>(cell_names(spec).size()); }

// With the smallest head, the smallest tail, or the smallest body: every cut point occurs in each
// role.
std::vector<Split> splits(const ModelSpec& spec) {
  std::vector<Split> all;
  for (int h = 1; h < cells(spec); ++h) {
    for (int t = 1; h + t < cells(spec); ++t) {
      if (h == 1 || t == 1 || h + t == cells(spec) - 1) all.push_back({h, t});
    }
  }
  return all;
}

Shape with_batch(int64_t batch, const Shape& one) {
  std::vector<int64_t> dims{batch};
  for (int64_t d : one.dims()) dims.push_back(d);
  return Shape(std::span<const int64_t>(dims));
}

Tensor images(const ModelSpec& spec, int64_t batch) {
  return naive::map(filled(with_batch(batch, spec.input_shape()), Fill::kUniform, 9),
                    [](double v) { return 0.5 + 0.5 * v; })
      .tensor();
}

// Running statistics like those of a trained net: a fresh one's are trivially 0 and 1.
void warm_up(Module& net, const ModelSpec& spec) {
  NoGrad guard;
  net.train();
  for (int i = 0; i < 20; ++i) net.forward(Var(images(spec, 8)));
  net.train(false);
}

std::vector<NamedTensor> part_of(const std::vector<NamedTensor>& whole, const Module& part) {
  std::vector<NamedTensor> result;
  for (const NamedTensor& mine : part.state()) {
    for (const NamedTensor& t : whole) {
      if (t.name == mine.name) result.push_back(t);
    }
  }
  return result;
}

class Architectures : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Architectures,
                         testing::Values("resnet18", "vgg16", "he19", "funnel", "thumbnail",
                                         "edge_only"),
                         [](const testing::TestParamInfo<const char*>& i) { return i.param; });
// Deeper ones of the same parts: what each cell is. Whole networks: network_reference_test.cc.
class AllArchitectures : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, AllArchitectures,
                         testing::Values("resnet18", "resnet34", "vgg16", "vgg19", "mobilenet",
                                         "he19", "funnel", "thumbnail", "edge_only", "lenet"),
                         [](const testing::TestParamInfo<const char*>& i) { return i.param; });

TEST(CellNames, AreTheStatedOnes) {
  EXPECT_EQ(cell_names(small("resnet18")),
            (std::vector<std::string>{"stem", "stage1", "stage2", "stage3", "stage4", "fc"}));
  EXPECT_EQ(cell_names(small("vgg16")),
            (std::vector<std::string>{"conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7",
                                      "conv8", "conv9", "conv10", "conv11", "conv12", "conv13",
                                      "fc1", "fc2", "fc3"}));
  for (const char* head : {"funnel", "thumbnail"}) {
    EXPECT_EQ(cell_names(small(head)),
              (std::vector<std::string>{head, "wide", "stage1", "stage2", "stage3", "fc"}));
  }
  EXPECT_EQ(cell_names(small("he19")),
            (std::vector<std::string>{"conv11", "relu12", "relu21", "relu22", "relu31", "relu32",
                                      "fc1", "fc2"}));
  EXPECT_EQ(cell_names(small("lenet")),
            (std::vector<std::string>{"conv1", "conv2", "fc1", "fc2", "fc3"}));
}

TEST(Shapes, OfThePublishedSettings) {
  ModelSpec cifar10;  // width 64, 32 pixels, with stem pool
  EXPECT_EQ(smashed_shape(cifar10, {1, 1}), (Shape{64, 16, 16}));
  EXPECT_EQ(body_output_shape(cifar10, {1, 1}), (Shape{512}));
  EXPECT_EQ(smashed_shape(cifar10, {2, 1}), (Shape{64, 16, 16}));
  EXPECT_EQ(smashed_shape(cifar10, {3, 1}), (Shape{128, 8, 8}));
  EXPECT_EQ(body_output_shape(cifar10, {1, 2}), (Shape{256, 4, 4}));
  ModelSpec cifar100 = cifar10;
  cifar100.classes = 100;
  cifar100.stem_pool = false;
  EXPECT_EQ(smashed_shape(cifar100, {1, 1}), (Shape{64, 32, 32}));
  ModelSpec faces = cifar100;
  faces.image_size = 64;
  EXPECT_EQ(smashed_shape(faces, {1, 1}), (Shape{64, 64, 64}));
  ModelSpec vgg;
  vgg.architecture = "vgg16";
  EXPECT_EQ(smashed_shape(vgg, {1, 1}), (Shape{64, 32, 32}));
  EXPECT_EQ(smashed_shape(vgg, {2, 1}), (Shape{64, 16, 16}));
  EXPECT_EQ(smashed_shape(vgg, {6, 1}), (Shape{256, 8, 8}));
  EXPECT_EQ(body_output_shape(vgg, {1, 1}), (Shape{512}));
  EXPECT_EQ(body_output_shape(vgg, {1, 3}), (Shape{512, 1, 1}));
}

TEST(Shapes, OfTorchvisionsNets) {
  ModelSpec resnet;
  resnet.image_size = 224;
  resnet.stem_kernel = 7;
  resnet.stem_pool = false;
  EXPECT_EQ(smashed_shape(resnet, {1, 1}), (Shape{64, 112, 112}));
  resnet.stem_pool = true;
  EXPECT_EQ(smashed_shape(resnet, {1, 1}), (Shape{64, 56, 56}));
  EXPECT_EQ(body_output_shape(resnet, {1, 2}), (Shape{256, 14, 14}));
  const auto parameters = [](ModelSpec spec) {
    spec.classes = 1000;
    int64_t total = 0;
    for (const CellInfo& cell : describe_cells(spec)) total += cell.parameters;
    return total;
  };
  EXPECT_EQ(parameters(resnet), 11689512);  // as torchvision's documentation says
  resnet.architecture = "resnet34";
  EXPECT_EQ(parameters(resnet), 21797672);
  ModelSpec vgg;
  vgg.architecture = "vgg16";
  vgg.image_size = 224;
  vgg.hidden = 4096;
  EXPECT_EQ(parameters(vgg), 138365992 - 4224);  // without the biases before batch norms
}

// 128 numbers, and 635,136 multiply-adds: 110,592 + 221,184 + 165,888 for the convolutions of
// stride 2, 3 x 43,776 for the separable blocks and 6,144 for the last.
TEST(Funnel, SendsLittleForItsPublishedCost) {
  ModelSpec spec;
  spec.architecture = "funnel";
  EXPECT_EQ(smashed_shape(spec, {1, 1}), (Shape{8, 4, 4}));
  EXPECT_EQ(describe_cells(spec)[0].flops, 2 * 635136);
  ModelSpec alone = spec;
  alone.architecture = "edge_only";
  EXPECT_EQ(split_cost(alone, {1, 1}, 1).edge_flops, 2 * (635136 - 6144 + 480));
  EXPECT_EQ(split_cost(alone, {1, 1}, 1).body_flops, 0);
  spec.head_width = 28;
  EXPECT_EQ(describe_cells(spec)[0].flops, 2 * 1764672);
  EXPECT_EQ(body_output_shape(spec, {1, 1}), (Shape{256}));
  spec.sent_channels = 3;
  spec.image_size = 28;
  EXPECT_EQ(smashed_shape(spec, {1, 1}), (Shape{3, 4, 4}));
}

TEST(Unknown, YieldsTheMapsItIsToldTo) {
  for (const auto& [image, sent] : {std::pair(32, 32), {32, 8}, {24, 3}, {96, 12}}) {
    ModelSpec spec;
    spec.architecture = "unknown";
    spec.image_size = image;
    spec.sent_channels = 5;
    spec.sent_size = sent;
    EXPECT_EQ(smashed_shape(spec, {1, 1}), (Shape{5, sent, sent}));
    spec.sent_size = sent - 1;
    EXPECT_THROW(smashed_shape(spec, {1, 1}), Error) << image;
  }
}

// No scale or shift is learnt behind the last normalisation.
TEST(Funnel, SendsNormalisedFeatures) {
  ModelSpec spec = small("funnel");
  Rng rng(3);
  const auto head = build_head(spec, {1, 1}, rng);
  int fixed = 0;
  for (const NamedVar& p : head->parameters()) fixed += !p.var.requires_grad();
  EXPECT_EQ(fixed, 2);
  const Tensor z =
      head->forward(Var(images(spec, 16))).value().plain();  // with the batch's statistics
  for (int64_t c = 0; c < 8; ++c) {
    double sum = 0, square = 0;
    for (int64_t b = 0; b < 16; ++b) {
      for (const float v : z.rows(b, 1).reshape({8, 16}).rows(c, 1).to_vector()) {
        sum += v, square += double{v} * v;
      }
    }
    EXPECT_NEAR(sum / 256, 0, 1e-4);
    EXPECT_NEAR(square / 256, 1, 1e-2);
  }
}

TEST(Thumbnail, IsTheMeanOfThePixelsBelow) {
  ModelSpec spec = small("thumbnail");
  spec.thumbnail = 4;
  Rng rng(3);
  const Tensor x = images(spec, 2);
  const Tensor z = build_head(spec, {1, 1}, rng)->forward(Var(x)).value().plain();
  ASSERT_EQ(z.shape(), (Shape{2, 3, 4, 4}));
  double mean = 0;  // channel 1, row 2, column 3
  for (int64_t row = 16; row < 24; ++row) {
    for (int64_t column = 24; column < 32; ++column) {
      mean += x.data<float>()[(1 * 32 + row) * 32 + column] / 64;
    }
  }
  EXPECT_NEAR(z.data<float>()[16 + 2 * 4 + 3], (mean - spec.mean[1]) / spec.stddev[1], 1e-4);
  spec.thumbnail = 5;
  EXPECT_THROW(check(spec, {1, 1}), Error);
}

TEST_P(AllArchitectures, CellsFitTogether) {
  const ModelSpec spec = small(GetParam());
  const std::vector<CellInfo> info = describe_cells(spec);
  ASSERT_EQ(info.size(), cell_names(spec).size());
  Rng rng(1);
  NoGrad guard;
  Var x(images(spec, 2));
  for (int i = 0; i < cells(spec); ++i) {
    const auto cell = build_cells(spec, i, i + 1, rng);
    cell->train(false);
    x = cell->forward(x);
    const CellInfo& c = info[static_cast<size_t>(i)];
    EXPECT_EQ(c.name, cell_names(spec)[static_cast<size_t>(i)]);
    EXPECT_EQ(x.shape(), with_batch(2, c.output)) << c.name;
    int64_t parameters = 0;
    for (const NamedVar& p : cell->parameters()) {
      parameters += p.var.shape().numel();
      EXPECT_TRUE(p.name.starts_with(c.name + ".")) << p.name;
    }
    EXPECT_EQ(c.parameters, parameters) << c.name;
    if (c.name != "thumbnail" && c.name != "pool") EXPECT_GT(c.flops, 0) << c.name;
  }
  EXPECT_EQ(info.back().output, (Shape{spec.classes}));
}

// Head, body and tail of each split: the shapes that are promised, and the whole net's result.
TEST_P(Architectures, SplitsGiveTheWholeNet) {
  const ModelSpec spec = small(GetParam());
  Rng rng(1);
  const auto whole = build_cells(spec, 0, cells(spec), rng);
  warm_up(*whole, spec);
  const auto state = whole->state();
  NoGrad guard;
  const Var x(images(spec, 2));
  const Tensor want = whole->forward(x).value();
  for (const Split& split : splits(spec)) {
    SCOPED_TRACE("h " + std::to_string(split.head) + ", t " + std::to_string(split.tail));
    const auto head = build_head(spec, split, rng), body = build_body(spec, split, rng);
    const auto tail = build_tail(spec, split, rng, 1);
    EXPECT_EQ(head->state().size() + body->state().size() + tail->state().size(), state.size());
    for (const auto& part : {head, body, tail}) {
      part->load_state(part_of(state, *part), "a test");
      part->train(false);
    }
    const Var z = head->forward(x);
    EXPECT_EQ(z.shape(), with_batch(2, smashed_shape(spec, split)));
    const Var f = body->forward(z);
    EXPECT_EQ(f.shape(), with_batch(2, body_output_shape(spec, split)));
    EXPECT_TRUE(near(tail->forward(f).value(), want, 1e-5));
  }
}

// The tail of an ensemble reads several bodies' answers side by side.
TEST_P(Architectures, TailsForSeveralBodies) {
  const ModelSpec spec = small(GetParam());
  NoGrad guard;
  for (const Split& split : splits(spec)) {
    if (split.head != 1) continue;
    for (int copies : {2, 3}) {
      Rng rng(1);
      const auto tail = build_tail(spec, split, rng, copies);
      tail->train(false);
      const Shape answer = body_output_shape(spec, split);
      std::vector<Var> answers;
      for (int i = 0; i < copies; ++i) {
        answers.emplace_back(uniform(with_batch(2, answer), static_cast<uint32_t>(i)));
      }
      const Var y = tail->forward(concat(answers, 1));
      EXPECT_EQ(y.shape(), (Shape{2, spec.classes})) << "tail " << split.tail;
      // Every body counts.
      for (int i = 0; i < copies; ++i) {
        std::vector<Var> changed = answers;
        changed[static_cast<size_t>(i)] = Var(uniform(with_batch(2, answer), 99));
        EXPECT_FALSE(near(tail->forward(concat(changed, 1)).value(), y.value(), 1e-4))
            << "tail " << split.tail << ", body " << i;
      }
    }
  }
}

TEST_P(AllArchitectures, OtherImagesAndChannels) {
  for (int size : {32, 48, 64}) {
    for (bool stem_pool : {true, false}) {
      ModelSpec spec = small(GetParam());
      spec.image_size = size;
      spec.stem_pool = stem_pool;
      spec.channels = 1;
      spec.mean = {0.3f};
      spec.stddev = {0.2f};
      Rng rng(1);
      NoGrad guard;
      const auto net = build_cells(spec, 0, cells(spec), rng);
      net->train(false);
      EXPECT_EQ(net->forward(Var(images(spec, 2))).shape(), (Shape{2, spec.classes}));
    }
  }
}

TEST_P(AllArchitectures, InputIsNormalised) {
  ModelSpec plain = small(GetParam()), shifted = plain;
  plain.mean = {0, 0, 0};
  plain.stddev = {1, 1, 1};
  shifted.mean = {0.1f, 0.2f, 0.3f};
  shifted.stddev = {0.5f, 0.25f, 0.4f};
  Rng a(1), b(1);
  const auto first = build_cells(plain, 0, 1, a), second = build_cells(shifted, 0, 1, b);
  first->train(false);
  second->train(false);
  const Tensor x = images(plain, 2);
  naive::Array by_hand(x);
  for (size_t i = 0; i < by_hand.size(); ++i) {
    const size_t c = i / (32 * 32) % 3;
    by_hand.v[i] = (by_hand.v[i] - shifted.mean[c]) / shifted.stddev[c];
  }
  EXPECT_TRUE(
      near(second->forward(Var(x)).value(), first->forward(Var(by_hand.tensor())).value(), 1e-5));
}

// He et al. 2019: 3x3 convolutions with bias, 2048 -> 512 -> 10; weights counted by hand.
TEST(He19, CellsHaveThePublishedShapes) {
  ModelSpec spec;
  spec.architecture = "he19";
  const std::vector<CellInfo> cells = describe_cells(spec);
  const std::vector<std::pair<Shape, int64_t>> want = {
      {{64, 32, 32}, 3 * 64 * 9 + 64},     {{64, 32, 32}, 64 * 64 * 9 + 64},
      {{128, 16, 16}, 64 * 128 * 9 + 128}, {{128, 16, 16}, 128 * 128 * 9 + 128},
      {{128, 8, 8}, 128 * 128 * 9 + 128},  {{128, 8, 8}, 128 * 128 * 9 + 128},
      {{512}, 128 * 4 * 4 * 512 + 512},    {{10}, 512 * 10 + 10}};
  ASSERT_EQ(cells.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(cells[i].output, want[i].first) << cells[i].name;
    EXPECT_EQ(cells[i].parameters, want[i].second) << cells[i].name;
  }
}

// The first cut is right behind the convolution, the later ones behind a ReLU.
TEST(He19, IsCutBeforeTheFirstReLU) {
  const ModelSpec spec = small("he19");
  NoGrad guard;
  for (int head = 1; head <= 6; ++head) {
    Rng rng(1);
    const Tensor z =
        build_head(spec, {head, 1}, rng)->forward(Var(images(spec, 2))).value().plain();
    const auto values = z.span<float>();
    const bool negative = std::ranges::any_of(values, [](float v) { return v < 0; });
    EXPECT_EQ(negative, head == 1) << "head " << head;
  }
}

// ---- lower(): serving gives what evaluation gives, for the whole and for every part

void expect_served(const Module& module, const Shape& input, const Tensor& x, const Tensor& want) {
  const Graph graph = lower(module, input);
  Plan plan(graph, {}, Dtype::kF32, 3);
  EXPECT_TRUE(near(plan.run(x), want, 2e-5));
  for (int64_t batch : {1, 2}) {
    EXPECT_TRUE(near(plan.run(x.rows(1, batch)), want.rows(1, batch), 2e-5)) << "batch " << batch;
  }
}

TEST_P(Architectures, ServingMatchesEvaluation) {
  const ModelSpec spec = small(GetParam());
  Rng rng(1);
  const auto whole = build_cells(spec, 0, cells(spec), rng);
  warm_up(*whole, spec);
  whole->freeze();
  NoGrad guard;
  const Tensor x = images(spec, 5);  // more than the plan's largest batch
  expect_served(*whole, spec.input_shape(), x, whole->forward(Var(x)).value());
}

TEST_P(Architectures, ServingEveryPartMatchesEvaluation) {
  const ModelSpec spec = small(GetParam());
  Rng rng(1);
  const auto whole = build_cells(spec, 0, cells(spec), rng);
  warm_up(*whole, spec);
  NoGrad guard;
  Tensor x = images(spec, 3);
  for (const Split& split : splits(spec)) {
    if (split.tail != 1 && split.head != 1) continue;
    SCOPED_TRACE("h " + std::to_string(split.head) + ", t " + std::to_string(split.tail));
    const auto head = build_head(spec, split, rng), body = build_body(spec, split, rng);
    head->load_state(part_of(whole->state(), *head), "a test");
    body->load_state(part_of(whole->state(), *body), "a test");
    head->train(false);
    body->train(false);
    const Tensor z = head->forward(Var(x)).value().plain();
    const Tensor f = body->forward(Var(z)).value();
    expect_served(*head, spec.input_shape(), x, z);
    expect_served(*body, smashed_shape(spec, split), z, f);
  }
}

TEST_P(Architectures, ServingInBFloat16IsClose) {
  ModelSpec spec = small(GetParam());
  spec.width = 16;
  Rng rng(1);
  const auto whole = build_cells(spec, 0, cells(spec), rng);
  warm_up(*whole, spec);
  NoGrad guard;
  const Tensor x = images(spec, 3);
  Plan plan(lower(*whole, spec.input_shape()), {}, Dtype::kBF16, 3);
  // The roundings of up to 13 layers.
  EXPECT_TRUE(near(plan.run(x), whole->forward(Var(x)).value(), 0.08));
}

// Training in bfloat16 goes where float32 goes: activations are rounded, weights are not. Only the
// first cells: through a whole untrained net rounding turns the gradient by tens of degrees
// (PyTorch's bfloat16 does the same).
TEST_P(Architectures, GradientsInBFloat16AreClose) {
  ModelSpec spec = small(GetParam());
  spec.width = 16;
  Rng rng(1);
  const auto net = build_cells(spec, 0, 2, rng);
  warm_up(*net, spec);
  const Tensor x = images(spec, 4);
  const Tensor weights = uniform(with_batch(4, describe_cells(spec)[1].output), 5);
  auto gradients = [&](Dtype dtype) {
    for (const NamedVar& p : net->parameters()) p.var.zero_grad();
    const Var y = net->forward(Var(x.to(dtype)));
    EXPECT_EQ(y.value().dtype(), dtype);
    backward_with(y, weights.to(dtype));
    std::vector<float> all;
    for (const NamedVar& p : net->parameters()) {
      if (!p.var.requires_grad()) continue;  // the scale behind a funnel
      EXPECT_EQ(p.var.grad().dtype(), Dtype::kF32) << p.name;
      const std::vector<float> g = p.var.grad().to_vector();
      all.insert(all.end(), g.begin(), g.end());
    }
    return all;
  };
  const std::vector<float> f32 = gradients(Dtype::kF32), bf16 = gradients(Dtype::kBF16);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < f32.size(); ++i) {
    dot += static_cast<double>(f32[i]) * bf16[i];
    a += static_cast<double>(f32[i]) * f32[i];
    b += static_cast<double>(bf16[i]) * bf16[i];
  }
  EXPECT_GT(dot / std::sqrt(a * b), 0.97);
  EXPECT_NEAR(std::sqrt(b / a), 1, 0.03);
}

// ---- what cannot be

void expect_usage(const ModelSpec& spec, const Split& split, const std::string& part) {
  try {
    check(spec, split);
    ADD_FAILURE() << "accepted; expected an error about " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Error::Kind::kUsage) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(Check, RejectsImpossibleSplits) {
  const ModelSpec resnet = small("resnet18"), vgg = small("vgg16");
  check(resnet, {1, 1});
  check(resnet, {4, 1});
  check(resnet, {1, 4});
  check(vgg, {14, 1});
  expect_usage(resnet, {0, 1}, "head");
  expect_usage(resnet, {1, 0}, "tail");
  expect_usage(resnet, {-3, 1}, "head");
  expect_usage(resnet, {5, 1}, "5");
  expect_usage(resnet, {3, 3}, "at most 5");
  expect_usage(resnet, {1, 5}, "cloud");
  expect_usage(resnet, {2147483647, 1}, "head");
  expect_usage(vgg, {15, 1}, "at most 15");
  Rng rng(1);
  EXPECT_THROW(build_head(resnet, {6, 1}, rng), Error);
  EXPECT_THROW(build_body(resnet, {3, 3}, rng), Error);
  EXPECT_THROW(build_tail(resnet, {1, 5}, rng, 2), Error);
  EXPECT_THROW(build_tail(resnet, {1, 1}, rng, 0), Error);
  EXPECT_THROW(smashed_shape(resnet, {6, 1}), Error);
  EXPECT_THROW(body_output_shape(resnet, {1, 6}), Error);
  EXPECT_THROW(build_cells(resnet, 0, 7, rng), Error);
  EXPECT_THROW(build_cells(resnet, -1, 2, rng), Error);
  EXPECT_THROW(build_cells(resnet, 3, 2, rng), Error);
}

TEST(Check, RejectsImpossibleSpecs) {
  auto with = [](auto change) {
    ModelSpec s = small("resnet18");
    change(s);
    return s;
  };
  expect_usage(with([](ModelSpec& s) { s.architecture = "alexnet"; }), {1, 1}, "alexnet");
  expect_usage(with([](ModelSpec& s) { s.width = 0; }), {1, 1}, "width");
  expect_usage(with([](ModelSpec& s) { s.width = 1 << 20; }), {1, 1}, "width");
  expect_usage(with([](ModelSpec& s) { s.classes = 1; }), {1, 1}, "classes");
  expect_usage(with([](ModelSpec& s) { s.stem_kernel = 5; }), {1, 1}, "use 3 or 7");
  expect_usage(with([](ModelSpec& s) { s.hidden = -1; }), {1, 1}, "hidden");
  expect_usage(with([](ModelSpec& s) {
                 s.stem_kernel = 7;
                 s.image_size = 16;
               }),
               {1, 1}, "image_size");
  expect_usage(with([](ModelSpec& s) { s.channels = 0; }), {1, 1}, "channels");
  expect_usage(with([](ModelSpec& s) { s.image_size = 8; }), {1, 1}, "image_size");
  expect_usage(with([](ModelSpec& s) { s.image_size = -32; }), {1, 1}, "image_size");
  expect_usage(with([](ModelSpec& s) { s.mean = {0.5f}; }), {1, 1}, "normalisation");
  expect_usage(with([](ModelSpec& s) {
                 s.architecture = "vgg16";
                 s.image_size = 16;
               }),
               {1, 1}, "image_size");
  expect_usage(with([](ModelSpec& s) {
                 s.architecture = "he19";
                 s.image_size = 7;
               }),
               {1, 1}, "image_size");
}

}  // namespace
}  // namespace ens::test
