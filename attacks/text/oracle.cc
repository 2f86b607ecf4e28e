// SPDX-License-Identifier: Apache-2.0
// The upper bound: the attacker has what the client sends for as many sentences as it likes, and
// learns to name each token: by the nearest mean of each word, and by a small transformer over the
// sentence, whichever is right more often on sentences that it has not learned from.
#include <algorithm>
#include <limits>
#include <numeric>

#include "attacks/text/codes.h"
#include "attacks/text/registry.h"
#include "attacks/text/vocabulary.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/modules/seq2seq.h"
#include "nn/optim/optim.h"

namespace ens {
namespace {

constexpr int64_t kHeldOutShare = 10;  // every tenth sentence
constexpr int64_t kSentences = 64;     // in a step
constexpr int kEpochs = 6, kLayers = 2;
constexpr int32_t kNothing = -1;  // padding among the targets

using Rows = std::vector<int32_t>;

// Names the vectors of a sentence [L,D].
using Reader = std::function<Rows(const Tensor& sentence)>;

double right(const Reader& reader, const std::vector<Tensor>& sent, const std::vector<Rows>& said) {
  double hits = 0, all = 0;
  for (size_t s = 0; s < sent.size(); ++s) {
    const Rows read = reader(sent[s]);
    for (size_t i = 1; i < read.size(); ++i) hits += read[i] == said[s][i], ++all;
  }
  return all > 0 ? hits / all : 0;
}

// The mean vector of each word, without PE.
Reader learn_means(const std::vector<Tensor>& sent, const std::vector<Rows>& said, int32_t words) {
  const int64_t width = sent.at(0).dim(1);
  Tensor means = Tensor::zeros({words, width});
  std::vector<float> counts(static_cast<size_t>(words)), norms(static_cast<size_t>(words));
  for (size_t s = 0; s < sent.size(); ++s) {
    const Tensor x = without_positions(sent[s]);
    for (int64_t i = 0; i < x.dim(0); ++i) {
      const int32_t word = said[s][static_cast<size_t>(i)];
      ++counts[static_cast<size_t>(word)];
      for (int64_t d = 0; d < width; ++d) {
        means.data<float>()[word * width + d] += x.data<float>()[i * width + d];
      }
    }
  }
  for (int32_t w = 0; w < words; ++w) {
    for (int64_t d = 0; d < width; ++d) {
      float& m = means.data<float>()[w * width + d];
      m /= std::max(1.0f, counts[static_cast<size_t>(w)]);
      norms[static_cast<size_t>(w)] += m * m;
    }
    if (counts[static_cast<size_t>(w)] == 0) {
      norms[static_cast<size_t>(w)] = std::numeric_limits<float>::infinity();
    }
  }
  return [means, norms, words](const Tensor& sentence) {
    const Tensor x = without_positions(sentence);
    Tensor products = Tensor::empty({x.dim(0), words});
    backend(Device{}).gemm(false, true, 1, x, means, 0, products);
    Rows read;
    for (int64_t i = 0; i < x.dim(0); ++i) {
      int32_t best = 0;
      float least = std::numeric_limits<float>::infinity();
      for (int32_t w = 0; w < words; ++w) {
        const float distance =
            norms[static_cast<size_t>(w)] - 2 * products.data<float>()[i * words + w];
        if (distance < least) least = distance, best = w;
      }
      read.push_back(best);
    }
    return read;
  };
}

class TokenReader : public SequenceModule {
 public:
  TokenReader(int64_t width, int32_t words, Rng& rng) {
    const Seq2SeqSpec spec{.width = width, .heads = heads_for(width), .hidden = 2 * width};
    for (int i = 0; i < kLayers; ++i) {
      layers_.push_back(
          add("layers." + std::to_string(i), std::make_shared<EncoderLayer>(spec, rng)));
    }
    names_ = add("names", std::make_shared<Linear>(width, words, true, rng));
    init_xavier(*this, rng);
  }
  // [B,L,D] -> [B*L, words]
  Var logits(const Var& x, const Tensor& lengths) {
    Var y = x;
    for (const auto& layer : layers_) y = layer->run(y, {.lengths = lengths}, {});
    return names_->forward(reshape(y, {y.dim(0) * y.dim(1), y.dim(2)}));
  }

 private:
  static int heads_for(int64_t width) { return width % 4 == 0 ? 4 : 1; }
  std::vector<std::shared_ptr<EncoderLayer>> layers_;
  std::shared_ptr<Linear> names_;
};

struct PaddedSentences {
  Tensor x, lengths, said;
};
PaddedSentences pad(const std::vector<Tensor>& sent, const std::vector<Rows>& said,
                    std::span<const size_t> rows) {
  int64_t longest = 0;
  for (const size_t r : rows) longest = std::max(longest, sent[r].dim(0));
  const int64_t n = std::ssize(rows), width = sent[rows[0]].dim(1);
  PaddedSentences out{Tensor::zeros({n, longest, width}), {}, {}};
  Rows lengths, targets(static_cast<size_t>(n * longest), kNothing);
  for (int64_t i = 0; i < n; ++i) {
    const Tensor& s = sent[rows[static_cast<size_t>(i)]];
    std::copy_n(s.data<float>(), s.numel(), out.x.data<float>() + i * longest * width);
    lengths.push_back(static_cast<int32_t>(s.dim(0)));
    if (!said.empty()) {
      std::ranges::copy(said[rows[static_cast<size_t>(i)]], targets.begin() + i * longest);
    }
  }
  out.lengths = Tensor::from_labels(lengths);
  out.said = Tensor::from_labels(targets);
  return out;
}

Reader learn_transformer(const std::vector<Tensor>& sent, const std::vector<Rows>& said,
                         int32_t words, const AttackContext& context) {
  Rng rng(context.seed, "token reader");
  const auto net = std::make_shared<TokenReader>(sent[0].dim(1), words, rng);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdamW;
  Optimizer optimizer(net->parameters(), adam);
  std::vector<size_t> order(sent.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return sent[i].dim(0); });
  const int64_t batches = (std::ssize(order) + kSentences - 1) / kSentences;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    for (const int64_t b : rng.permutation(batches)) {
      const auto rows = std::span(order).subspan(
          static_cast<size_t>(b * kSentences),
          std::min<size_t>(kSentences, order.size() - static_cast<size_t>(b * kSentences)));
      const PaddedSentences p = pad(sent, said, rows);
      const Var loss =
          softmax_cross_entropy(net->logits(Var(p.x), p.lengths), p.said, {.ignore = kNothing});
      loss.backward();
      optimizer.step(1e-3f);
      context.report(0, "reading tokens, epoch " + std::to_string(epoch + 1) + ", loss " +
                            std::to_string(loss.item()));
    }
  }
  net->freeze();
  return [net](const Tensor& sentence) {
    const NoGrad no_grad;
    const size_t first = 0;
    const PaddedSentences p = pad({sentence}, {}, {&first, 1});
    return argmax_rows(net->logits(Var(p.x), p.lengths).value());
  };
}

class Oracle : public TextAttackOn<AnyTextPairsView> {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "classifier on unlimited pairs"; }

  std::vector<TextReading> run_on(const AnyTextPairsView& view,
                                  const AttackContext& context) override {
    const TextPairs pairs = view.send(0, std::ssize(view.public_text));
    if (pairs.tokens.size() < 2) usage_fail("the attacker has no sentences", "data.public_images");
    TextVocabulary words;
    std::vector<Tensor> sent, held_sent;
    std::vector<Rows> said, held_said;
    for (size_t i = 0; i < pairs.tokens.size(); ++i) {
      const bool held = static_cast<int64_t>(i) % kHeldOutShare == kHeldOutShare - 1;
      (held ? held_sent : sent).push_back(pairs.features[i]);
      (held ? held_said : said).push_back(words(pairs.tokens[i]));
    }
    context.report(0, "means of words");
    Reader best = learn_means(sent, said, words.size());
    constexpr double kGoodEnough = 0.985;  // rare words that were never heard are all that is left
    const double by_means = right(best, held_sent, held_said);
    if (by_means < kGoodEnough) {
      const Reader reader = learn_transformer(sent, said, words.size(), context);
      if (right(reader, held_sent, held_said) > by_means) best = reader;
    }
    TextReading reading;
    for (int64_t s = 0; s < view.scored; ++s) {
      TokenTexts tokens;
      for (const int32_t word : best(view.observed[static_cast<size_t>(s)])) {
        tokens.push_back(words.word(word));
      }
      reading.tokens.push_back(std::move(tokens));
    }
    return {reading};
  }
};

}  // namespace

std::unique_ptr<TextAttack> text_oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
