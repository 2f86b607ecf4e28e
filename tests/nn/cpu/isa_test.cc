// SPDX-License-Identifier: Apache-2.0
// One binary on any processor: what a network computes, and what it learns, agrees across
// instruction sets. oneDNN reads its limit once, so every set has a process of its own; that our
// own kernels have a version for every x86-64 is checked with a program compiled without the
// others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Results {
  std::string description;
  std::vector<std::pair<std::string, std::vector<double>>> entries;
};

Results results_of(const std::string& command) {
  Results results;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  if (!pipe) return results;
  char line[256];
  for (bool first = true; fgets(line, sizeof line, pipe.get()); first = false) {
    std::string text(line);
    text.pop_back();
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (first) {
      results.description = text;
    } else if (end && *end == '\0') {
      results.entries.back().second.push_back(number);
    } else {
      results.entries.push_back({text, {}});
    }
  }
  return results;
}

// Three sets of images, of which one may differ: now and then an element before a ReLU is so near
// to zero that rounding decides whether its gradient passes.
void expect_agreement(const Results& want, const Results& got) {
  ASSERT_EQ(want.entries.size(), got.entries.size());
  ASSERT_GT(want.entries.size(), 300u);
  std::map<std::string, std::string> differ;  // images -> the first entry that does
  for (size_t i = 0; i < want.entries.size(); ++i) {
    const auto& [name, a] = want.entries[i];
    const auto& [other, b] = got.entries[i];
    ASSERT_EQ(name, other);
    ASSERT_EQ(a.size(), b.size()) << name;
    double largest = 0, worst = 0;
    for (size_t k = 0; k < a.size(); ++k) {
      ASSERT_TRUE(std::isfinite(b[k])) << name;
      largest = std::max(largest, std::abs(a[k]));
      worst = std::max(worst, std::abs(a[k] - b[k]));
    }
    // Rounding, and the noise of a small batch's normalisation in the gradients.
    if (!(worst <= 1e-3 * largest + 1e-7)) {
      differ.try_emplace(name.substr(0, name.find(" width")),
                         name + " by " + std::to_string(worst) + " of " + std::to_string(largest));
    }
  }
  std::string what;
  for (const auto& [images, entry] : differ) what += entry + "\n";
  EXPECT_LE(differ.size(), 1u) << what;
}

const Results& default_results() {
  static const Results results = results_of(ENS_ISA_RESULTS);
  return results;
}

class IsaTest : public testing::TestWithParam<const char*> {};

TEST_P(IsaTest, AgreesWithTheDefault) {
  const Results limited =
      results_of(std::string("ONEDNN_MAX_CPU_ISA=") + GetParam() + " " ENS_ISA_RESULTS);
  ASSERT_FALSE(limited.description.empty());
#if defined(__x86_64__)
  if (std::string(GetParam()) == "SSE41") {
    EXPECT_NE(limited.description.find("baseline"), std::string::npos) << limited.description;
  }
#endif
  expect_agreement(default_results(), limited);
}
INSTANTIATE_TEST_SUITE_P(Limits, IsaTest, testing::Values("SSE41", "AVX", "AVX2", "AVX512_CORE"));

TEST(Isa, BaselineKernelsAgreeWithTheDefault) {
  expect_agreement(default_results(), results_of(ENS_ISA_RESULTS_BASELINE));
  expect_agreement(default_results(),
                   results_of("ONEDNN_MAX_CPU_ISA=SSE41 " ENS_ISA_RESULTS_BASELINE));
}

}  // namespace
