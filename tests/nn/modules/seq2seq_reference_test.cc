// SPDX-License-Identifier: Apache-2.0
// A whole translation network against PyTorch's nn.Transformer: values, loss and every gradient.
// The numbers come from make_seq2seq_reference.py beside this file.
#include <gtest/gtest.h>

#include <cmath>

#include "nn/modules/seq2seq.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

constexpr int64_t kSource = 7, kTarget = 6, kSourceWords = 11, kTargetWords = 13, kWidth = 12;
constexpr int32_t kPad = 1;
const std::vector<int32_t> kSourceIds{2, 4, 9, 5, 10, 7, 3, 2, 8, 4, 3,
                                      1, 1, 1, 2, 3,  1, 1, 1, 1, 1};
const std::vector<int32_t> kTargetIds{2, 5, 7, 12, 4, 6, 2, 9, 9, 1, 1, 1, 2, 1, 1, 1, 1, 1};
const std::vector<int32_t> kNextIds{5, 7, 12, 4, 6, 3, 9, 9, 3, 1, 1, 1, 3, 1, 1, 1, 1, 1};
const std::vector<int32_t> kLengths{7, 4, 2};

struct Network {
  explicit Network(const std::string& name, const Seq2SeqSpec& spec)
      : rng(1),
        net(spec, rng),
        generator(kWidth, kTargetWords, true, rng),
        source(pattern(name + ".source", {kSourceWords, kWidth}), true),
        target(pattern(name + ".target", {kTargetWords, kWidth}), true) {
    init_from_names(net, name);
    init_from_names(generator, name + ".generator");
  }
  Var embed(const Var& table, const std::vector<int32_t>& ids, int64_t length) const {
    const Tensor rows =
        Tensor::from_labels(ids).reshape({static_cast<int64_t>(kLengths.size()), length});
    return add_position(affine(gather(table, rows), std::sqrt(static_cast<float>(kWidth)), 0),
                        Var(sinusoid_positions(length + 3, kWidth)));
  }
  // [3 * T, W]
  Var logits(const std::vector<int32_t>& source_ids, const std::vector<int32_t>& target_ids) {
    const Tensor lengths = Tensor::from_labels(kLengths);
    const Var memory = net.encode(embed(source, source_ids, kSource), lengths);
    const Var z = net.decode(embed(target, target_ids, kTarget), memory, lengths);
    return generator.forward(reshape(z, {z.dim(0) * z.dim(1), kWidth}));
  }
  Rng rng;
  Seq2Seq net;
  Linear generator;
  Var source, target;
};

Seq2SeqSpec spec_of(bool norm_first, UnaryOp activation) {
  return {kWidth, 3, 20, 2, 2, norm_first, activation};
}

void compare(const std::string& name, const Seq2SeqSpec& spec) {
  static const Reference want("tests/nn/modules/data/seq2seq.bin");
  Network n(name, spec);
  const Var logits = n.logits(kSourceIds, kTargetIds);
  const Var loss = softmax_cross_entropy(logits, Tensor::from_labels(kNextIds),
                                         {.smoothing = 0.1f, .ignore = kPad});
  Tensor real = logits.value().clone();
  for (size_t i = 0; i < kNextIds.size(); ++i) {
    if (kNextIds[i] == kPad) real.rows(static_cast<int64_t>(i), 1).fill(0);
  }
  EXPECT_TRUE(near(real, want[name + ".logits"], 1e-5));
  EXPECT_NEAR(loss.item(), want.number(name + ".loss"), 1e-5);
  loss.backward();
  size_t compared = 0;
  for (const NamedVar& p : n.net.parameters()) {
    EXPECT_TRUE(near(p.var.grad(), want[name + ".grad." + p.name], 2e-5)) << p.name;
    ++compared;
  }
  EXPECT_EQ(want.names(name + ".grad.").size(), compared);
  EXPECT_TRUE(near(n.generator.parameters()[0].var.grad(), want[name + ".generator_grad"], 2e-5));
  EXPECT_TRUE(near(n.source.grad(), want[name + ".source_grad"], 2e-5));
  EXPECT_TRUE(near(n.target.grad(), want[name + ".target_grad"], 2e-5));
}

TEST(Seq2SeqReference, NormAfterEachSublayer) { compare("post", spec_of(false, UnaryOp::kRelu)); }
TEST(Seq2SeqReference, NormFirst) { compare("pre", spec_of(true, UnaryOp::kGelu)); }

// Whoever masks wrongly reads the answer in the question.
TEST(Seq2Seq, NoOutputDependsOnALaterTokenOrOnPadding) {
  NoGrad no_grad;
  Network n("post", spec_of(false, UnaryOp::kRelu));
  const std::vector<float> before = n.logits(kSourceIds, kTargetIds).value().to_vector();
  for (size_t changed = 0; changed < static_cast<size_t>(kTarget); ++changed) {
    std::vector<int32_t> target = kTargetIds;
    target[changed] = 10;
    const std::vector<float> after = n.logits(kSourceIds, target).value().to_vector();
    const size_t same = changed * kTargetWords;
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(same),
                           after.begin()))
        << changed;
    EXPECT_NE(before[same], after[same]) << changed;
  }
  std::vector<int32_t> source = kSourceIds;
  source[12] = 9;  // padding of the second sentence
  EXPECT_EQ(n.logits(source, kTargetIds).value().to_vector(), before);
  source[10] = 9;  // its last word
  EXPECT_NE(n.logits(source, kTargetIds).value().to_vector(), before);
}

TEST(Seq2Seq, DropoutRepeatsWithItsNumbersAndIsOffWithoutThem) {
  Network n("post", spec_of(false, UnaryOp::kRelu));
  const Tensor lengths = Tensor::from_labels(kLengths);
  const Var x = n.embed(n.source, kSourceIds, kSource);
  const auto run = [&](uint64_t seed) {
    Rng rng(seed);
    return n.net.encode(x, lengths, {0.3f, &rng}).value().to_vector();
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
  EXPECT_NE(run(1), n.net.encode(x, lengths).value().to_vector());
}

}  // namespace
}  // namespace ens::test
