// SPDX-License-Identifier: Apache-2.0
// Pairs of sentences in two languages, from text files with one a line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ens {

struct SentencePairs {
  std::vector<std::string> source, target;
  int64_t count() const { return static_cast<int64_t>(source.size()); }
};

// Multi30k (Elliott et al. 2016): "train", "val", "test_2016_flickr", "test_2017_flickr".
// direction: "en-de" or "de-en". Error naming the missing or damaged file, the line, and
// the command that mends it.
SentencePairs read_multi30k(const std::filesystem::path& root, const std::string& split,
                            const std::string& direction);
bool multi30k_present(const std::filesystem::path& root);  // no contents are read

}  // namespace ens
