// SPDX-License-Identifier: Apache-2.0
#include "text/spm/spm.h"

#include "base/error.h"
#include "text/model/tokeniser.h"

namespace ens {
namespace {

class SpmTokeniser : public Tokeniser {
 public:
  explicit SpmTokeniser(std::string bytes) : bytes_(std::move(bytes)) {
    if (const std::string problem = spm::library().load(bytes_, model_); !problem.empty()) {
      fail("no SentencePiece model: " + problem, "tokeniser");
    }
    for (int symbol = 0; symbol < kFirstWord; ++symbol) {
      if (model_->symbol(symbol) == symbol) continue;
      fail("the SentencePiece model numbers its symbols otherwise", "tokeniser",
           "train it with --unk_id=0 --pad_id=1 --bos_id=2 --eos_id=3");
    }
  }

  std::vector<int32_t> encode(std::string_view sentence) const override {
    std::vector<int32_t> ids;
    check(model_->encode(sentence, ids));
    return ids;
  }
  std::string decode(std::span<const int32_t> tokens) const override {
    std::vector<int32_t> ids;
    for (const int32_t id : tokens) {
      if (id >= 0 && id < size() && (id >= kFirstWord || id == kUnknown)) ids.push_back(id);
    }
    std::string out;
    check(model_->decode(ids, out));
    return out;
  }
  int64_t size() const override { return model_->size(); }
  std::string token(int32_t id) const override { return model_->piece(id); }
  std::string kind() const override { return "spm"; }
  std::string bytes() const override { return bytes_; }

 private:
  static void check(const std::string& problem) {
    if (!problem.empty()) fail("SentencePiece: " + problem, "tokeniser");
  }
  const std::string bytes_;
  std::unique_ptr<spm::Model> model_;
};

}  // namespace

TokeniserPtr make_spm_tokeniser(std::string bytes) {
  return std::make_shared<SpmTokeniser>(std::move(bytes));
}

TokeniserPtr train_spm_tokeniser(const std::vector<std::string>& sentences, int64_t pieces) {
  std::string bytes;
  if (const std::string problem = spm::library().train(sentences, pieces, bytes);
      !problem.empty()) {
    usage_fail("SentencePiece could not learn: " + problem, "text.pieces",
               "ask for fewer pieces, or give it more sentences");
  }
  return make_spm_tokeniser(std::move(bytes));
}

}  // namespace ens
