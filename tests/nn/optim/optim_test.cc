// SPDX-License-Identifier: Apache-2.0
// Optimizer: what is updated, clipping, exact resumption. The update rules themselves are held
// against PyTorch in training_reference_test.cc.
#include "nn/optim/optim.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

using Floats = std::vector<float>;

OptimSpec spec_of(const std::string& name) {
  OptimSpec s;
  s.kind = parse_optimizer(name);
  s.amsgrad = s.kind == OptimSpec::Kind::kAdam;
  s.weight_decay = 0.01f;
  return s;
}

// Two parameters of a function whose gradient changes from step to step.
struct Problem {
  Var a{uniform({3, 4}, 1), true};
  Var b{uniform({5}, 2), true};
  std::vector<NamedVar> parameters() const { return {{"a", a}, {"b", b}}; }
  void gradients(int step) const {
    const float k = 1 + 0.5f * static_cast<float>(step % 3);
    add(sum(square(affine(a, k, -0.3f))), sum(tanh(affine(b, 2, k)))).backward();
  }
  void take(Optimizer& optimizer, int from, int to) const {
    for (int i = from; i < to; ++i) {
      gradients(i);
      optimizer.step(0.05f);
    }
  }
};

TEST(Optimizer, LeavesFrozenAndUnusedParametersAlone) {
  for (const char* name : {"sgd", "adam", "adamw"}) {
    const Var live(Tensor::from({1, 2}, {2}), true), frozen(Tensor::from({3, 4}, {2}), false);
    const Var unused(Tensor::from({5, 6}, {2}), true);
    Optimizer optimizer({{"live", live}, {"frozen", frozen}, {"unused", unused}}, spec_of(name));
    sum(mul(live, frozen)).backward();
    optimizer.step(0.1f);
    EXPECT_NE(live.value().to_vector(), (Floats{1, 2})) << name;
    EXPECT_EQ(frozen.value().to_vector(), (Floats{3, 4})) << name;
    EXPECT_EQ(unused.value().to_vector(), (Floats{5, 6})) << name << ": no gradient, no decay";
    EXPECT_FALSE(live.grad().defined()) << "step() forgets the gradients";
  }
}

TEST(Optimizer, UpdatesInPlace) {
  const Problem p;
  const void* before = p.a.value().raw();
  Optimizer optimizer(p.parameters(), spec_of("sgd"));
  p.take(optimizer, 0, 2);
  EXPECT_EQ(p.a.value().raw(), before) << "modules and optimiser share one tensor";
}

TEST(Optimizer, ResumesExactly) {
  for (const char* name : {"sgd", "adam", "adamw"}) {
    const Problem whole;
    Optimizer without_stop(whole.parameters(), spec_of(name));
    whole.take(without_stop, 0, 9);

    const Problem first;
    Optimizer stopped(first.parameters(), spec_of(name));
    first.take(stopped, 0, 4);
    std::vector<NamedTensor> state;
    for (const NamedTensor& t : stopped.state()) state.push_back({t.name, t.tensor.clone()});
    Problem second;
    second.a.mutable_value().copy_from(first.a.value());
    second.b.mutable_value().copy_from(first.b.value());
    Optimizer resumed(second.parameters(), spec_of(name));
    resumed.load_state(state, "a test");
    second.take(resumed, 4, 9);
    EXPECT_EQ(second.a.value().to_vector(), whole.a.value().to_vector()) << name;
    EXPECT_EQ(second.b.value().to_vector(), whole.b.value().to_vector()) << name;

    // The state matters: without it the result differs.
    Problem third;
    third.a.mutable_value().copy_from(first.a.value());
    third.b.mutable_value().copy_from(first.b.value());
    Optimizer fresh(third.parameters(), spec_of(name));
    third.take(fresh, 4, 9);
    EXPECT_NE(third.a.value().to_vector(), whole.a.value().to_vector()) << name;
  }
}

TEST(Optimizer, NamesWhatIsMissingFromAState) {
  const Problem p;
  Optimizer adam(p.parameters(), spec_of("adam"));
  Optimizer sgd(p.parameters(), spec_of("sgd"));
  ENS_EXPECT_ERROR(adam.load_state(sgd.state(), "run/last.h5"), "a.second");
  ENS_EXPECT_ERROR(adam.load_state(sgd.state(), "run/last.h5"), "run/last.h5");
}

TEST(Optimizer, ClipsTheJointNorm) {
  const Var a(Tensor::from({0, 0}, {2}), true), b(Tensor::from({0}, {1}), true);
  OptimSpec spec;
  spec.momentum = 0;
  Optimizer optimizer({{"a", a}, {"b", b}}, spec);
  auto make_gradients = [&] {
    optimizer.zero_grad();
    sum(mul(a, Var(Tensor::from({2, 3}, {2})))).backward();
    sum(mul(b, Var(Tensor::from({6}, {1})))).backward();
  };
  make_gradients();
  EXPECT_NEAR(optimizer.clip_gradients(100), 7, 1e-5);  // sqrt(4 + 9 + 36)
  EXPECT_EQ(a.grad().to_vector(), (Floats{2, 3}));
  make_gradients();
  EXPECT_NEAR(optimizer.clip_gradients(3.5f), 7, 1e-5);
  EXPECT_TRUE(near(a.grad(), Tensor::from({1, 1.5f}, {2}), 1e-6));
  EXPECT_TRUE(near(b.grad(), Tensor::from({3}, {1}), 1e-6));
  optimizer.step(1);
  EXPECT_TRUE(near(a.value(), Tensor::from({-1, -1.5f}, {2}), 1e-6));
}

TEST(Optimizer, UnknownNamesAreUsageErrors) {
  try {
    parse_optimizer("lion");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(e.what()).find("'lion'"), std::string::npos);
  }
}

}  // namespace
}  // namespace ens::test
