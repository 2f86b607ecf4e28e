// SPDX-License-Identifier: Apache-2.0
// libens_spm.so: nothing but SentencePiece behind text/spm/spm.h.
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <unordered_map>

#include "text/spm/spm.h"

namespace ens::spm {
namespace {

class Processor : public Model {
 public:
  std::string load(const std::string& bytes) {
    return text(processor_.LoadFromSerializedProto(bytes));
  }
  std::string encode(std::string_view sentence, std::vector<int32_t>& ids) const override {
    std::vector<int> found;
    const auto status = processor_.Encode(sentence, &found);
    ids.assign(found.begin(), found.end());
    return text(status);
  }
  std::string decode(const std::vector<int32_t>& ids, std::string& sentence) const override {
    return text(processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &sentence));
  }
  std::string piece(int32_t id) const override { return processor_.IdToPiece(id); }
  int64_t size() const override { return processor_.GetPieceSize(); }
  int32_t symbol(int which) const override {
    return which == 0   ? processor_.unk_id()
           : which == 1 ? processor_.pad_id()
           : which == 2 ? processor_.bos_id()
                        : processor_.eos_id();
  }
  static std::string text(const sentencepiece::util::Status& status) {
    return status.ok() ? "" : status.ToString();
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::vector<std::string>& all) : all_(all) {}
  bool done() const override { return at_ >= all_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return all_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& all_;
  size_t at_ = 0;
};

std::string load(const std::string& bytes, std::unique_ptr<Model>& model) {
  auto processor = std::make_unique<Processor>();
  std::string problem = processor->load(bytes);
  model = std::move(processor);
  return problem;
}

std::string train(const std::vector<std::string>& sentences, int64_t pieces, std::string& bytes) {
  const std::unordered_map<std::string, std::string> settings{
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(pieces)},
      {"hard_vocab_limit", "false"},  // few sentences have fewer pieces
      {"normalization_rule_name", "nmt_nfkc"},
      {"unk_id", "0"},
      {"pad_id", "1"},
      {"bos_id", "2"},
      {"eos_id", "3"},
      {"num_threads", "1"},  // so that the same sentences give the same pieces
      {"minloglevel", "2"}};
  Sentences all(sentences);
  return Processor::text(sentencepiece::SentencePieceTrainer::Train(settings, &all, &bytes));
}

}  // namespace
}  // namespace ens::spm

extern "C" __attribute__((visibility("default"))) const ens::spm::Library* ens_spm() {
  static const ens::spm::Library library{&ens::spm::load, &ens::spm::train};
  return &library;
}
