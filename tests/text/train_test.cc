// SPDX-License-Identifier: Apache-2.0
// Training of translations on a toy language: what it learns, what it leaves, and that it goes on
// after a stop to the same weights.
#include "text/train/train.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/threads.h"
#include "nn/io/checkpoint.h"
#include "proto/results.h"
#include "tests/support/compare.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"
#include "text/body/cloud_bundle.h"
#include "text/model/edge_bundle.h"
#include "text/model/translate.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::error_of;

// Each word has its translation, and the order is turned around.
SentencePairs toy(int64_t count, uint64_t seed) {
  const std::vector<std::string> english{"dog", "cat", "man", "runs", "sees", "red", "big", "ball"},
      german{"hund", "katze", "mann", "läuft", "sieht", "rot", "groß", "ball"};
  Rng rng(seed);
  SentencePairs pairs;
  for (int64_t i = 0; i < count; ++i) {
    std::string source, target;
    for (uint64_t k = 2 + rng.below(4); k > 0; --k) {
      const uint64_t word = rng.below(english.size());
      source += (source.empty() ? "" : " ") + english[word];
      target = german[word] + (target.empty() ? "" : " ") + target;
    }
    pairs.source.push_back(source);
    pairs.target.push_back(target);
  }
  return pairs;
}

TextData data() { return {toy(600, 1), {}, toy(60, 2), toy(60, 3)}; }

RunConfig config(std::vector<std::string> more = {}) {
  RunConfig c;
  more.insert(more.begin(), {"device=cpu",
                             "data.name=multi30k",
                             "text.direction=en-de",
                             "text.width=32",
                             "text.heads=4",
                             "text.feed_forward=64",
                             "text.encoder_layers=2",
                             "text.decoder_layers=2",
                             "protection.kind=none",
                             "stage1.epochs=2",
                             "stage1.batch=32",
                             "stage1.optimizer=adamw",
                             "stage1.lr=0.003",
                             "stage1.weight_decay=0",
                             "stage1.beta2=0.98",
                             "stage1.schedule=constant",
                             "stage2.epochs=2",
                             "stage2.batch=32",
                             "stage2.optimizer=adamw",
                             "stage2.lr=0.003",
                             "stage2.weight_decay=0",
                             "stage2.schedule=constant",
                             "ensemble.insecure_seeded_secrets=true"});
  apply_overrides(more, c);
  complete(c);
  return c;
}

class TextTraining : public testing::Test {
 protected:
  // So small networks gain nothing from teams of threads.
  TextTraining() { set_compute_threads(1); }
  void train(const std::string& name, const RunConfig& c) {
    RunDir run(folder_ / name, to_text(c), {"a test", "CPU", 1});
    train_text(c, run, data());
  }
  results::RunSummary summary(const std::string& name) const {
    results::RunSummary s;
    results::read(folder_ / name / "summary.json", s);
    return s;
  }
  void expect_same_bundles(const std::string& a, const std::string& b) const {
    for (const char* file : {"edge.h5", "cloud.h5"}) {
      EXPECT_EQ(read_file(folder_ / a / file), read_file(folder_ / b / file)) << file;
    }
  }
  test::TempDir folder_;
};

const std::vector<std::string> kEnsemble{"protection.kind=ensembler", "ensemble.nets=3",
                                         "ensemble.selected=2", "ensemble.sigma=0.1",
                                         "ensemble.lambda=0.5"};

TEST_F(TextTraining, LearnsTheToyLanguage) {
  train("run", config({"stage1.epochs=25", "text.dropout=0"}));
  const auto text = summary("run").text();
  EXPECT_GT(text.bleu(), 90);
  EXPECT_LT(text.validation_loss(), .2);
  EXPECT_EQ(text.sentences(), 60);
  EXPECT_EQ(text.direction(), "en-de");
  // The bundles translate as the training did, and the cloud's has no words.
  const TextEdgeBundle edge = read_text_edge(folder_ / "run/edge.h5");
  const TextCloudBundle cloud = read_text_cloud(folder_ / "run/cloud.h5");
  EXPECT_EQ(edge.fingerprint, cloud.fingerprint);
  LocalBodies bodies(cloud.nets, Device{});
  Translator translator(edge.head, edge.tail, edge.selected, search_options(edge.config), nullptr);
  const std::vector<std::vector<int32_t>> sentences{edge.source->encode("big red dog runs"), {}};
  const auto found = translator.translate(sentences, bodies);
  EXPECT_EQ(edge.target->decode(found[0]), "läuft hund rot groß");
  EXPECT_TRUE(found[1].empty());
  EXPECT_EQ(read_file(folder_ / "run/cloud.h5").find("hund"), std::string::npos);
  EXPECT_NE(read_file(folder_ / "run/edge.h5").find("hund"), std::string::npos);
}

TEST_F(TextTraining, GoesOnAfterAStopToTheSameWeights) {
  for (const bool ensemble : {false, true}) {
    const RunConfig c =
        config(ensemble ? kEnsemble : std::vector<std::string>{"text.head_layers=1"});
    const std::string whole = ensemble ? "whole2" : "whole1", stopped = whole + "-stopped";
    train(whole, c);
    int stops = 0;
    for (int64_t allowed = ensemble ? 150 : 25;; allowed += 130) {
      std::atomic<int64_t> steps = 0;
      const ProgressCapture capture([&](const ProgressStep&) {
        if (++steps > allowed) throw Stopped();
      });
      try {
        train(stopped, c);
        break;
      } catch (const Stopped&) {
        ++stops;
      }
    }
    EXPECT_GT(stops, 0);
    expect_same_bundles(whole, stopped);
  }
}

TEST_F(TextTraining, AnEnsembleKeepsWhatTheClientAloneKnows) {
  train("run", config(kEnsemble));
  const auto s = summary("run");
  EXPECT_EQ(s.nets(), 3);
  EXPECT_TRUE(s.has_similarity());
  const TextEdgeBundle edge = read_text_edge(folder_ / "run/edge.h5");
  EXPECT_EQ(edge.nets, 3);
  EXPECT_EQ(edge.selected.size(), 2u);
  double squares = 0;
  for (const float v : edge.head->source_noise().to_vector()) squares += v * v;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(edge.head->source_noise().numel())), .1, .01);
  // The cloud's file has the bodies of all three, and nothing of the client.
  const Checkpoint cloud = read_checkpoint(folder_ / "run/cloud.h5", "");
  for (const auto& [name, tensor] : cloud.tensors) {
    EXPECT_TRUE(name.starts_with("net") && (name.find("/encoder.") != std::string::npos ||
                                            name.find("/decoder.") != std::string::npos))
        << name;
  }
}

TEST_F(TextTraining, FreshNoiseDiffersFromTokenToToken) {
  train("run", config({"protection.kind=single", "protection.fresh_noise=true",
                       "ensemble.sigma=0.2", "stage1.epochs=1"}));
  const TextEdgeBundle edge = read_text_edge(folder_ / "run/edge.h5");
  EXPECT_NEAR(edge.fresh_sigma, .2, 1e-6);
  const Var clean(Tensor::zeros({1, 40, 32}));
  Rng rng(5);
  const auto sent = [&] { return edge.head->send_source(clean, &rng).value().to_vector(); };
  const auto first = sent();
  EXPECT_NE(first, sent());
  double squares = 0;
  for (const float v : first) squares += v * v;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(first.size())), .2, .02);
}

TEST_F(TextTraining, RefusesWhatItCannotDo) {
  EXPECT_NE(text_impossible(config({"protection.kind=nopeek"})).find("nopeek"), std::string::npos);
  EXPECT_NE(text_impossible(config({"text.generator=cloud"})), "");
  EXPECT_EQ(text_impossible(config()), "");
  EXPECT_NE(error_of([] { config({"text.heads=5"}); }).find("text.heads"), std::string::npos);
  EXPECT_NE(error_of([] { config({"text.head_layers=2"}); }).find("head_layers"),
            std::string::npos);
  EXPECT_NE(error_of([] { config({"data.name=cifar10"}); }).find("sentences"), std::string::npos);
  EXPECT_NE(error_of([] { config({"text.direction=none"}); }).find("direction"), std::string::npos);
}

TEST(PairBatches, HoldEverySentenceOnceInEachEpoch) {
  const SentencePairs pairs = toy(101, 4);
  TextConfig settings = config().text();
  const Tokenisers tokenisers = make_tokenisers(settings, pairs);
  const TokenPairs tokens = encode(tokenisers, pairs, 512);
  PairBatches batches(tokens, 16, 9);
  std::vector<std::vector<int32_t>> orders;
  for (const int64_t epoch : {0, 1, 0}) {
    batches.start(epoch);
    std::multiset<std::string> seen;
    std::vector<int32_t> order;
    int64_t count = 0, step = epoch * batches.batches();
    for (Batch b; batches.next(b); ++count) {
      const TokenBatch t = token_batch(b);
      EXPECT_EQ(step_of(b), step++);
      for (int64_t r = 0; r < t.source.dim(0); ++r) {
        const int32_t* row = t.source.data<int32_t>() + r * t.source.dim(1);
        const int32_t length = t.source_lengths.data<int32_t>()[r];
        EXPECT_EQ(row[0], kBegin);
        EXPECT_EQ(row[length - 1], kEnd);
        seen.insert(tokenisers.source->decode({row, static_cast<size_t>(length)}));
        order.insert(order.end(), row, row + length);
        // The target's next words are the target, one place later.
        const int64_t wide = t.target.dim(1);
        for (int64_t k = 0; k + 1 < wide; ++k) {
          const int32_t next = t.next.data<int32_t>()[r * wide + k],
                        after = t.target.data<int32_t>()[r * wide + k + 1];
          EXPECT_TRUE(next == after || next == kEnd);
        }
      }
    }
    EXPECT_EQ(count, batches.batches());
    EXPECT_EQ(seen, std::multiset<std::string>(pairs.source.begin(), pairs.source.end()));
    orders.push_back(order);
  }
  EXPECT_EQ(orders[0], orders[2]);
  EXPECT_NE(orders[0], orders[1]);
}

}  // namespace
}  // namespace ens
