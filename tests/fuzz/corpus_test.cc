// SPDX-License-Identifier: Apache-2.0
// The fuzzers' seeds, and simple mutations of them, through every target: runs everywhere, without
// libFuzzer. `./run fuzz` looks further.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <string>
#include <vector>

#include "nn/core/rng.h"
#include "tests/fuzz/targets.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  void (*run)(const uint8_t*, size_t);
};

void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }

class Corpus : public testing::TestWithParam<Target> {
 protected:
  static void feed(const std::string& bytes) {
    GetParam().run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
};

TEST_P(Corpus, SeedsAndTheirMutationsAreSurvived) {
  std::vector<std::string> seeds;
  for (const auto& entry :
       fs::directory_iterator(fs::path(ENS_SOURCE_DIR) / "tests/fuzz/corpus" / GetParam().name)) {
    std::ifstream in(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  ASSERT_GE(seeds.size(), 2u);
  feed("");
  Rng rng(1);
  for (const std::string& seed : seeds) {
    feed(seed);
    for (int i = 0; i < 200; ++i) {
      std::string mutant = seed;
      for (uint64_t n = 1 + rng.below(4); n > 0 && !mutant.empty(); --n) {
        const size_t at = rng.below(mutant.size());
        switch (rng.below(4)) {
          case 0:
            mutant[at] = static_cast<char>(rng.below(256));
            break;
          case 1:
            mutant.erase(at, 1 + rng.below(8));
            break;
          case 2:
            mutant.insert(at, mutant.substr(rng.below(mutant.size()), rng.below(16)));
            break;
          default:
            mutant.resize(at);
        }
      }
      feed(mutant);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Targets, Corpus,
    testing::Values(Target{"request", fuzz::request}, Target{"reply", fuzz::reply},
                    Target{"worker", fuzz::worker}, Target{"config", fuzz::config},
                    Target{"bundle", fuzz::bundle}, Target{"safetensors", fuzz::safetensors},
                    Target{"studio", fuzz::studio}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace ens
