// SPDX-License-Identifier: Apache-2.0
#include "nn/data/sentences.h"

#include <array>

#include "base/error.h"
#include "base/files.h"
#include "base/utf8.h"
#include "nn/data/dataset.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMend = "ensembler data get multi30k";
constexpr std::array kSplits{"train", "val", "test_2016_flickr", "test_2017_flickr"};

fs::path file_of(const fs::path& root, const std::string& split, const std::string& language) {
  return data_root(root) / "multi30k" / (split + "." + language);
}

std::vector<std::string> lines_of(const fs::path& file) {
  const auto text = read_file_if_there(file);
  if (!text) fail("a file of the data set is missing", file.string(), kMend);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    std::string line = text->substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (const auto bad = invalid_utf8(line)) {
      fail("line " + std::to_string(lines.size() + 1) + ", byte " + std::to_string(*bad + 1) +
               ": this is not UTF-8",
           file.string(), kMend);
    }
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

}  // namespace

SentencePairs read_multi30k(const fs::path& root, const std::string& split,
                            const std::string& direction) {
  SentencePairs pairs;
  const fs::path source = file_of(root, split, direction.substr(0, 2)),
                 target = file_of(root, split, direction.substr(3));
  pairs.source = lines_of(source);
  pairs.target = lines_of(target);
  if (pairs.source.size() != pairs.target.size() || pairs.source.empty()) {
    fail(std::to_string(pairs.source.size()) + " sentences, and " +
             std::to_string(pairs.target.size()) + " in " + target.filename().string(),
         source.string(), kMend);
  }
  return pairs;
}

bool multi30k_present(const fs::path& root) {
  for (const char* split : kSplits) {
    for (const char* language : {"en", "de"}) {
      if (!fs::exists(file_of(root, split, language))) return false;
    }
  }
  return true;
}

}  // namespace ens
