// SPDX-License-Identifier: Apache-2.0
#include "text/train/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/error.h"
#include "base/progress.h"
#include "ensemble/model/selector.h"
#include "experiment/setup.h"
#include "experiment/train_net.h"
#include "nn/core/backend.h"
#include "nn/io/checkpoint.h"
#include "nn/optim/fit.h"
#include "proto/results.h"
#include "text/body/cloud_bundle.h"
#include "text/model/bleu.h"
#include "text/model/edge_bundle.h"
#include "text/model/translate.h"
#include "text/train/protections.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kEvaluationBatch = 64;

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the client alone knows: drawn once, and kept for a training that goes on.
struct Secrets {
  std::vector<int> selected;
  Tensor source_noise, target_noise;
};

class TextTraining {
 public:
  TextTraining(const RunConfig& config, RunDir& run, const TextData& data)
      : config_(config),
        run_(run),
        tokenisers_(make_tokenisers(config.text(), data.train)),
        train_(encode(tokenisers_, data.train, config.text().max_tokens())),
        validation_(encode(tokenisers_, data.validation, config.text().max_tokens())),
        test_(data.test),
        spec_(text_spec(config.text(), tokenisers_.source->size(), tokenisers_.target->size())),
        device_(devices_for(config)[0]),
        check_stop_(stop_check()) {}

  void run() {
    const auto start = std::chrono::steady_clock::now();
    train_stage1();
    results::RunSummary summary;
    (*summary.mutable_seconds())["stage1"] = since(start);
    std::vector<std::shared_ptr<Seq2Seq>> bodies;
    for (const auto& net : nets_) bodies.push_back(net->bodies()[0]);
    std::vector<int> selected{0};
    std::shared_ptr<TextNet> client = nets_[0];
    const TextProtection protection = text_protection(config_.protection().kind());
    if (protection == TextProtection::kEnsemble) {
      const auto second = std::chrono::steady_clock::now();
      client = train_stage2(selected, summary);
      (*summary.mutable_seconds())["stage2"] = since(second);
    } else if (protection == TextProtection::kNoiseAfterwards) {
      Rng rng = secret_rng("noise");
      add_noise(*client->head(), rng);
    }
    for (const auto& body : bodies) body->to(Device{});
    write_text_cloud(run_.path("cloud.h5"), bodies);
    client->to(Device{});
    TextEdgeBundle edge;
    edge.config = config_.text();
    edge.source = tokenisers_.source;
    edge.target = tokenisers_.target;
    edge.head = client->head();
    edge.tail = client->tail();
    edge.nets = static_cast<int>(bodies.size());
    edge.selected = selected;
    edge.fresh_sigma = fresh_sigma();
    edge.fingerprint = read_text_cloud(run_.path("cloud.h5")).fingerprint;
    write_text_edge(run_.path("edge.h5"), edge);
    describe(*client, summary);
    results::write(run_.path("summary.json"), summary);
  }

 private:
  Rng secret_rng(const std::string& name) const {
    return config_.ensemble().insecure_seeded_secrets() ? Rng(config_.seed(), name)
                                                        : Rng(secure_random());
  }
  float sigma() const { return static_cast<float>(config_.ensemble().sigma()); }
  float fresh_sigma() const { return config_.protection().fresh_noise() ? sigma() : 0; }
  void add_noise(TextHead& head, Rng& rng) const {
    if (fresh_sigma() > 0) {
      head.set_fresh_noise(fresh_sigma());
    } else if (sigma() > 0) {
      head.draw_fixed_noise(sigma(), rng);
    }
  }

  NetTraining job_of(const std::string& stage, int index, const TrainConfig& settings,
                     const std::string& file, const std::string& label) const {
    NetTraining job;
    job.stage = stage;
    job.index = index;
    job.settings = &settings;
    job.optimizer = optim_spec(settings);
    job.label = label;
    job.file = run_.path(file);
    return job;
  }

  // Trains, from what is there. `penalty` may be empty.
  void train(TextNet& net, NetTraining job, uint64_t seed, Progress& progress,
             const std::function<Var()>& penalty) {
    net.to(device_);
    PairBatches batches(train_, job.settings->batch(), seed);
    CrossEntropySpec loss = cross_entropy_spec(*job.settings);
    loss.ignore = kPad;
    NextWordScore score;
    job.loss = [&](const Batch& b) {
      const TokenBatch tokens = token_batch(b);
      Rng dropout(seed, static_cast<uint64_t>(step_of(b)));
      Rng noise(seed + 1, static_cast<uint64_t>(step_of(b)));
      const Var total =
          softmax_cross_entropy(net.logits(tokens, &dropout, &noise), tokens.next, loss);
      return penalty ? add(total, penalty()) : total;
    };
    job.quick_accuracy = [&] {
      score = score_next_words(net, validation_);
      return score.accuracy;
    };
    const auto others = job.epoch_metrics;
    job.epoch_metrics = [&, others] {
      std::vector<std::pair<std::string, double>> all{{"validation_loss", score.loss}};
      if (others) std::ranges::copy(others(), std::back_inserter(all));
      return all;
    };
    train_net(run_, batches, net, job, progress);
    net.freeze();
  }

  int64_t sentences_in(const TrainConfig& settings) const {
    return settings.epochs() * train_.count();
  }

  void train_stage1() {
    const int count = config_.ensemble().nets();
    const TrainConfig& settings = config_.stage1();
    nets_.resize(static_cast<size_t>(count));
    Progress progress(fmt::format("stage 1: {} net{}", count, count == 1 ? "" : "s"),
                      count * sentences_in(settings), "sentences");
    const bool noisy =
        text_protection(config_.protection().kind()) != TextProtection::kNoiseAfterwards;
    run_parallel(
        count, settings.side_by_side(),
        [&](int i) {
          const std::string name = "stage1/net" + std::to_string(i);
          Rng rng(config_.seed(), name);
          const auto net = std::make_shared<TextNet>(spec_, rng);
          if (noisy) add_noise(*net->head(), rng);
          train(*net, job_of("stage1", i, settings, name + ".h5", "net " + std::to_string(i)),
                rng.next(), progress, {});
          nets_[static_cast<size_t>(i)] = net;
        },
        device_);
    progress.finish();
  }

  Secrets draw_secrets() const {
    const EnsembleConfig& e = config_.ensemble();
    const fs::path file = run_.path("stage2/secrets.h5");
    if (!fs::exists(file)) {
      const Selector selector = e.insecure_seeded_secrets()
                                    ? Selector::seeded(e.nets(), e.selected(), config_.seed())
                                    : Selector::draw(e.nets(), e.selected());
      Rng unused(1), rng = secret_rng("stage2/noise");
      TextHead drawn(spec_, unused);
      add_noise(drawn, rng);
      Checkpoint c;
      c.kind = "secrets";
      const std::vector<float> list(selector.selected().begin(), selector.selected().end());
      c.tensors = {{"selected", Tensor::from(list, {std::ssize(list)})},
                   {"source_noise", drawn.source_noise()},
                   {"target_noise", drawn.target_noise()}};
      write_checkpoint(file, c, /*secret=*/true);
    }
    const Checkpoint c = read_checkpoint(file, "secrets");
    Secrets secrets{{}, c.tensor("source_noise"), c.tensor("target_noise")};
    for (const float i : c.tensor("selected").to_vector()) {
      secrets.selected.push_back(static_cast<int>(i));
    }
    return secrets;
  }

  // How often each word stands in the training sentences, together 1.
  Tensor frequencies(const std::vector<std::vector<int32_t>>& sentences, int64_t words) const {
    Tensor out = Tensor::zeros({words});
    double all = 0;
    for (const auto& sentence : sentences) {
      for (const int32_t id : sentence) ++out.data<float>()[id], ++all;
    }
    for (float& f : out.span<float>()) f = static_cast<float>(f / all);
    return out.to(device_);
  }

  // Eq. 3's similarity, on the rows of the embeddings weighted by how often each word is sent: the
  // largest over the selected nets.
  Var similarity(const TextHead& mine, const std::vector<std::shared_ptr<TextNet>>& others,
                 const Tensor& source, const Tensor& target) const {
    std::vector<Var> all;
    for (const auto& other : others) {
      const TextHead& head = *other->head();
      const Var s = sum(
          mul(cosine_similarity(mine.source_embedding(), head.source_embedding()), Var(source)));
      const Var t = sum(
          mul(cosine_similarity(mine.target_embedding(), head.target_embedding()), Var(target)));
      all.push_back(affine(add(s, t), 0.5f, 0));
    }
    return maximum(all);
  }

  std::shared_ptr<TextNet> train_stage2(std::vector<int>& selected, results::RunSummary& summary) {
    const Secrets secrets = draw_secrets();
    selected = secrets.selected;
    std::vector<std::shared_ptr<Seq2Seq>> bodies;
    std::vector<std::shared_ptr<TextNet>> others;
    for (const int i : selected) {
      others.push_back(nets_[static_cast<size_t>(i)]);
      bodies.push_back(others.back()->bodies()[0]);
    }
    Rng rng(config_.seed(), "stage2");
    const auto net = std::make_shared<TextNet>(spec_, bodies, rng);
    net->head()->load_noise(secrets.source_noise, secrets.target_noise);
    net->head()->set_fresh_noise(fresh_sigma());
    const Tensor source = frequencies(train_.source, spec_.source_words),
                 target = frequencies(train_.target, spec_.target_words);
    const auto lambda = static_cast<float>(config_.ensemble().lambda());
    EpochMean reached;
    NetTraining job = job_of("stage2", -1, config_.stage2(), "stage2/ensemble.h5", "ensemble");
    job.epoch_metrics = [&] {
      return std::vector<std::pair<std::string, double>>{{"similarity", reached.take()}};
    };
    Progress progress("stage 2: the client", sentences_in(config_.stage2()), "sentences");
    train(*net, job, rng.next(), progress, [&] {
      const Var worst = similarity(*net->head(), others, source, target);
      reached.add(worst.item());
      return affine(worst, lambda, 0);
    });
    progress.finish();
    summary.set_similarity(similarity(*net->head(), others, source, target).item());
    return net;
  }

  void describe(TextNet& net, results::RunSummary& summary) {
    summary.set_protection(config_.protection().kind());
    summary.set_nets(config_.ensemble().nets());
    summary.set_selected(config_.ensemble().selected());
    summary.set_sigma(config_.ensemble().sigma());
    summary.set_lambda(config_.ensemble().lambda());
    summary.set_architecture("transformer");
    summary.set_width(config_.text().width());
    summary.set_dtype(name(Dtype::kF32));
    summary.set_data(config_.data().name());
    summary.set_train_images(static_cast<int32_t>(train_.count()));
    summary.set_test_images(static_cast<int32_t>(test_.count()));
    net.to(device_);
    const NextWordScore score = score_next_words(net, validation_);
    summary.set_accuracy(score.accuracy);
    results::RunSummary::Text& text = *summary.mutable_text();
    text.set_direction(config_.text().direction());
    text.set_tokeniser(config_.text().tokeniser());
    text.set_source_words(static_cast<int32_t>(spec_.source_words));
    text.set_target_words(static_cast<int32_t>(spec_.target_words));
    text.set_head_layers(spec_.head_layers);
    text.set_validation_loss(score.loss);
    text.set_sentences(static_cast<int32_t>(test_.count()));
    score_translations(net, text);
  }

  void score_translations(TextNet& net, results::RunSummary::Text& text) const {
    std::vector<int> all(net.bodies().size());
    std::iota(all.begin(), all.end(), 0);
    for (const auto& body : net.bodies()) body->to(device_);
    LocalBodies bodies(net.bodies(), device_);
    Rng noise(config_.seed(), "test noise");
    Translator translator(net.head(), net.tail(), all, search_options(config_.text()), &noise);
    std::vector<std::vector<int32_t>> sentences;
    for (const std::string& line : test_.source) {
      sentences.push_back(tokenisers_.source->encode(line));
    }
    const auto found = translate_all(translator, bodies, sentences, check_stop_);
    std::vector<std::string> lines;
    std::vector<Words> lower, wanted;
    for (size_t i = 0; i < found.size(); ++i) {
      lines.push_back(tokenisers_.target->decode(found[i]));
      lower.push_back(split_words(lines.back(), false));
      wanted.push_back(split_words(test_.target[i], false));
    }
    text.set_bleu(corpus_bleu(lines, test_.target));
    text.set_signature(bleu_signature());
    text.set_bleu_lower(bleu(lower, wanted));
  }

  const RunConfig& config_;
  RunDir& run_;
  const Tokenisers tokenisers_;
  const TokenPairs train_, validation_;
  const SentencePairs& test_;
  const TextSpec spec_;
  const Device device_;
  const std::function<void()> check_stop_;
  std::vector<std::shared_ptr<TextNet>> nets_;
};

}  // namespace

std::string text_impossible(const RunConfig& config) {
  try {
    text_protection(config.protection().kind());
  } catch (const Error& e) {
    return e.what();
  }
  if (config.text().generator() == "cloud") {
    return "text.generator 'cloud' is not built: the cloud would read the translation";
  }
  return "";
}

NextWordScore score_next_words(TextNet& net, const TokenPairs& pairs) {
  const NoGrad no_grad;
  std::vector<int64_t> order(static_cast<size_t>(pairs.count()));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {},
                           [&](int64_t i) { return pairs.target[static_cast<size_t>(i)].size(); });
  NextWordScore out;
  double words = 0;
  for (size_t begin = 0; begin < order.size(); begin += kEvaluationBatch) {
    const auto rows =
        std::span(order).subspan(begin, std::min<size_t>(kEvaluationBatch, order.size() - begin));
    const TokenBatch batch = token_batch(pairs, rows);
    Rng noise(1, begin);
    const Var logits = net.logits(batch, nullptr, &noise);
    const auto next = batch.next.span<int32_t>();
    const auto kept =
        static_cast<double>(next.size()) - static_cast<double>(std::ranges::count(next, kPad));
    out.loss += kept * softmax_cross_entropy(logits, batch.next, {.ignore = kPad}).item();
    const std::vector<int32_t> best = argmax_rows(logits.value());
    for (size_t i = 0; i < next.size(); ++i) {
      out.accuracy += next[i] != kPad && next[i] == best[i];
    }
    words += kept;
  }
  out.loss /= words;
  out.accuracy /= words;
  return out;
}

void train_text(const RunConfig& config, RunDir& run, const TextData& data) {
  if (const std::string reason = text_impossible(config); !reason.empty()) usage_fail(reason);
  TextTraining(config, run, data).run();
}

}  // namespace ens
