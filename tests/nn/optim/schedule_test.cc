// SPDX-License-Identifier: Apache-2.0
#include "nn/optim/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

TEST(Schedule, MatchesPyTorch) {
  const Reference want("tests/nn/modules/data/training.bin");
  size_t compared = 0;
  for (const std::string& name : want.names("rates.")) {  // kind.steps
    Schedule s;
    s.peak = 0.3f;
    s.steps = std::stoll(name.substr(name.find('.') + 1));
    s.period = 5;
    s.gamma = 0.7f;
    std::string kind = name.substr(0, name.find('.'));
    if (kind == "onecycle_warmup10") {
      s.warmup = 0.1f;
      kind = "onecycle";
    }
    s.kind = parse_schedule(kind);
    std::vector<float> rates;
    for (int64_t i = 0; i < s.steps; ++i) rates.push_back(s.at(i));
    EXPECT_TRUE(near(Tensor::from(rates, {s.steps}), want["rates." + name], 2e-6)) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 11u);
}

// d^-.5 min(s^-.5, s warmup^-1.5) with d = 512 and warmup = 4000, as the paper has it, from s = 1
// on.
TEST(Schedule, NoamIsThePapers) {
  Schedule s;
  s.kind = parse_schedule("noam");
  s.peak = static_cast<float>(std::pow(512, -.5) * std::pow(4000, -.5));
  s.warmup_steps = 4000;
  for (const int64_t step : {1, 2, 100, 3999, 4000, 4001, 16000, 100000}) {
    const auto n = static_cast<double>(step);
    const double want = std::pow(512, -.5) * std::min(std::pow(n, -.5), n * std::pow(4000, -1.5));
    EXPECT_NEAR(s.at(step - 1), want, 1e-6 * want) << step;
  }
}

TEST(Schedule, IsFiniteAndPositiveAtAnyLength) {
  for (const char* kind : {"constant", "onecycle", "cosine", "step", "noam"}) {
    for (int64_t steps : {1, 2, 3, 4, 5}) {
      Schedule s;
      s.kind = parse_schedule(kind);
      s.steps = steps;
      for (int64_t i = 0; i < steps; ++i) {
        const float lr = s.at(i);
        EXPECT_TRUE(std::isfinite(lr) && lr > 0 && lr <= s.peak * 1.0001f)
            << kind << " step " << i << " of " << steps << ": " << lr;
      }
    }
  }
}

TEST(Schedule, OneCycleRisesAndFalls) {
  Schedule s;
  s.steps = 100;
  float top = 0;
  for (int64_t i = 0; i < s.steps; ++i) top = std::max(top, s.at(i));
  EXPECT_FLOAT_EQ(top, s.peak);
  EXPECT_NEAR(s.at(0), s.peak / 25, 1e-7);
  EXPECT_LT(s.at(99), s.peak / 1e5);
}

TEST(Schedule, UnknownNamesAreUsageErrors) {
  try {
    parse_schedule("exponential");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(e.what()).find("'exponential'"), std::string::npos);
  }
}

}  // namespace
}  // namespace ens::test
