// SPDX-License-Identifier: Apache-2.0
// SentencePiece (Kudo and Richardson, EMNLP 2018) in a library of its own, libens_spm.so, loaded
// when it is first needed. Debian's libsentencepiece brings an older Protobuf with it, whose
// symbols must not meet those of our own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ens::spm {

class Model {
 public:
  virtual ~Model() = default;
  virtual std::string encode(std::string_view sentence, std::vector<int32_t>& ids) const = 0;
  virtual std::string decode(const std::vector<int32_t>& ids, std::string& sentence) const = 0;
  virtual std::string piece(int32_t id) const = 0;
  virtual int64_t size() const = 0;
  virtual int32_t symbol(int which) const = 0;  // 0: unknown, 1: padding, 2: begin, 3: end
};

// What the library offers. Texts that are returned say what went wrong; empty: nothing.
struct Library {
  std::string (*load)(const std::string& bytes, std::unique_ptr<Model>& model);
  // A unigram model, normalised by nmt_nfkc, with symbols 0 to 3 as above; its bytes.
  std::string (*train)(const std::vector<std::string>& sentences, int64_t pieces,
                       std::string& bytes);
};

const Library& library();  // Error if it cannot be loaded. Thread-safe

}  // namespace ens::spm
