// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/text.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <set>

#include "attacks/text/metrics.h"
#include "attacks/text/registry.h"
#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/strings.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/results.h"
#include "lab/scenarios/attack_tasks.h"
#include "lab/scenarios/shared_target.h"
#include "lab/scenarios/split_training.h"
#include "nn/core/backend.h"
#include "proto/results.h"
#include "text/body/cloud_bundle.h"
#include "text/model/edge_bundle.h"
#include "text/model/translate.h"
#include "text/train/data.h"
#include "text/train/train.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// A finished run, as its attacks meet it.
class Target {
 public:
  Target(const fs::path& folder, const RunConfig& wanted)
      : folder_(folder),
        config_(attacked_config(folder, wanted)),
        data_(load_text(config_)),
        edge_(read_text_edge(folder / "edge.h5")),
        cloud_(read_text_cloud(folder / "cloud.h5")),
        noise_(config_.seed(), "traffic") {
    if (data_.set_aside.count() == 0) {
      usage_fail("no sentences were set aside for attackers when this run was trained",
                 folder.string(), "train again with data.public_images above 0");
    }
    const AttackConfig& a = config_.attack();
    scored_ = std::min(a.scored_images(), data_.test.count());
    const int64_t more = std::min(a.observed_features(), data_.train.count());
    for (int64_t i = 0; i < scored_; ++i)
      lines_.push_back(data_.test.source[static_cast<size_t>(i)]);
    for (int64_t i = 0; i < more; ++i) lines_.push_back(data_.train.source[static_cast<size_t>(i)]);
    public_ = std::min(a.public_images(), data_.set_aside.count());
  }

  static bool done(const fs::path& folder, const std::string& attack, const RunConfig& wanted) {
    try {
      return has_result(folder, attack, attacked_config(folder, wanted).attack());
    } catch (const std::exception&) {  // a damaged run or result: the attack will say so
      return false;
    }
  }

  void run(const std::string& name_of_attack, TaskContext& task) {
    const auto attack = make_text_attack(name_of_attack);
    const fs::path into = folder_ / "attack" / attack->name();
    fs::create_directories(into);
    AttackContext context;
    context.settings = config_.attack();
    context.seed = first_attack_seed(config_);
    context.on_progress = [&](int64_t, const std::string& note) {
      task.report(0, name_of_attack + ": " + note);
    };
    results::AttackResult result;
    std::string failure;
    const auto start = std::chrono::steady_clock::now();
    try {
      for (const bool source : {true, false}) read_side(*attack, source, context, into, result);
    } catch (const Stopped&) {
      throw;
    } catch (const std::exception& e) {
      failure = e.what();
      result.set_error(failure);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    result.set_seconds(seconds.count());
    result.set_attack(attack->name());
    result.set_title(attack->title());
    result.set_level(name(attack->level()));
    result.set_metric(config_.attack().metric());
    result.set_tier(config_.attack().tier());
    result.set_settings(to_text(config_.attack()));
    result.set_device(backend(context.device).description());
    result.set_dtype(name(context.dtype));
    result.set_observed("features of sentences, token by token");
    result.set_scored_images(static_cast<int32_t>(scored_));
    results::write(into / "result.json", result);
    if (!failure.empty()) fail(failure);
  }

 private:
  struct Side {
    TextVictim victim;
    TextTruth truth;
  };

  void read_side(TextAttack& attack, bool source, const AttackContext& context,
                 const fs::path& into, results::AttackResult& result) {
    const std::string name_of_side = source ? "source" : "target";
    context.report(0, "the " + name_of_side + " side");
    const std::shared_ptr<const Side> side = this->side(source, context);
    const std::vector<TextReading> readings = attack.run(side->victim, context);
    std::string sentences;
    for (size_t i = readings.size(); i-- > 0;) {  // the last one is reported first
      const TextReading& reading = readings[i];
      if (reading.same && source) {
        fill(result.mutable_auc(), equality_auc(side->truth, reading, kPairs, context.seed));
      }
      if (reading.tokens.empty()) continue;
      const TextScore score = score_reading(side->truth, reading.tokens, context.seed);
      results::AttackResult::Text& text = *result.add_text();
      text.set_side(name_of_side + (reading.candidate.empty() ? "" : ", " + reading.candidate));
      fill(text.mutable_tokens(), score.tokens);
      fill(text.mutable_rouge_l(), score.rouge_l);
      text.set_bleu(score.bleu);
      text.set_exact(score.exact);
      if (std::isfinite(score.rare_words)) text.set_rare_words(score.rare_words);
      if (std::isfinite(score.names)) text.set_names(score.names);
      text.set_common_words(score.common_words);
      text.set_sentences(static_cast<int32_t>(scored_));
      if (i + 1 == readings.size()) sentences = sentences_of(*side, reading);
    }
    if (!sentences.empty()) {
      write_file_atomically(into / (name_of_side + ".txt"), sentences, /*secret=*/true);
    }
  }

  // What was sent and what was read, a line each.
  static std::string sentences_of(const Side& side, const TextReading& reading) {
    std::string out;
    for (size_t s = 0; s < reading.tokens.size(); ++s) {
      std::vector<std::string> sent, read;
      for (size_t i = 0; i < reading.tokens[s].size(); ++i) {
        if (side.truth.tokens[s][i].empty()) continue;
        sent.push_back(side.truth.tokens[s][i]);
        read.push_back(reading.tokens[s][i].empty() ? "?" : reading.tokens[s][i]);
      }
      out += "sent " + join(sent, " ") + "\nread " + join(read, " ") + "\n\n";
    }
    return out;
  }

  const Tokeniser& tokeniser(bool source) const { return source ? *edge_.source : *edge_.target; }

  // The token rows that the client turns into features, with begin and, of the source, end.
  static std::vector<int32_t> row_of(std::span<const int32_t> words, bool source) {
    std::vector<int32_t> row = with_ends(words);
    if (!source) row.pop_back();
    return row;
  }
  static TokenTexts texts_of(const Tokeniser& tokeniser, std::span<const int32_t> row) {
    TokenTexts out;
    for (const int32_t id : row) out.push_back(tokeniser.token(id));
    return out;
  }

  // What the client sends for these rows: a tensor each.
  std::vector<Tensor> features(const std::vector<std::vector<int32_t>>& rows, bool source) {
    const NoGrad no_grad;
    constexpr size_t kBatch = 64;
    std::vector<Tensor> out;
    for (size_t begin = 0; begin < rows.size(); begin += kBatch) {
      const auto batch = std::span(rows).subspan(begin, std::min(kBatch, rows.size() - begin));
      const Tensor ids = padded_rows(batch);
      TextHead& head = *edge_.head;
      const Var sent = source ? head.send_source(head.source(ids, row_lengths(batch)), &noise_)
                              : head.send_target(head.target(ids), &noise_);
      const Tensor all = sent.value().to(Device{}).plain();
      for (size_t i = 0; i < batch.size(); ++i) {
        const auto length = std::ssize(batch[i]);
        Tensor one = Tensor::empty({length, all.dim(2)});
        std::copy_n(all.data<float>() + static_cast<int64_t>(i) * all.dim(1) * all.dim(2),
                    one.numel(), one.data<float>());
        out.push_back(one);
      }
    }
    return out;
  }

  // What the client feeds back for the observed sentences is what it chose.
  const std::vector<std::vector<int32_t>>& translations(const AttackContext& context) {
    if (!translations_.empty()) return translations_;
    std::vector<std::shared_ptr<Seq2Seq>> read;
    std::vector<int> all;
    for (const int i : edge_.selected) {
      all.push_back(static_cast<int>(read.size()));
      read.push_back(cloud_.nets[static_cast<size_t>(i)]);
    }
    LocalBodies bodies(read, Device{});
    Translator translator(edge_.head, edge_.tail, all, search_options(edge_.config), &noise_);
    std::vector<std::vector<int32_t>> sentences;
    for (const std::string& line : lines_) sentences.push_back(edge_.source->encode(line));
    int64_t batches = 0;
    translations_ = translate_all(translator, bodies, sentences, [&] {
      context.report(0, fmt::format("translating the traffic, batch {}", ++batches));
    });
    return translations_;
  }

  std::shared_ptr<const Side> side(bool source, const AttackContext& context) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const Side>& kept = sides_[source];
    if (kept) return kept;
    const auto side = std::make_shared<Side>();
    std::vector<std::vector<int32_t>> rows;
    for (size_t i = 0; i < lines_.size(); ++i) {
      rows.push_back(
          row_of(source ? edge_.source->encode(lines_[i]) : translations(context)[i], source));
    }
    TextVictim& v = side->victim;
    v.observed = features(rows, source);
    v.scored = scored_;
    const SentencePairs& aside = data_.set_aside;
    const std::vector<std::string> own((source ? aside.source : aside.target).begin(),
                                       (source ? aside.source : aside.target).begin() + public_);
    // The attacker cuts its own sentences by the same rules.
    const SentencePairs both{own, own};
    const TokeniserPtr cut = make_tokenisers(config_.text(), both).source;
    for (const std::string& line : own) {
      v.public_text.push_back(texts_of(*cut, row_of(cut->encode(line), source)));
    }
    const TextHead& head = *edge_.head;
    const Tensor& table = (source ? head.source_embedding() : head.target_embedding()).value();
    v.table = backend(Device{}).unary(UnaryOp::kAffine, table,
                                      std::sqrt(static_cast<float>(table.dim(1))), 0);
    for (int32_t id = 0; id < tokeniser(source).size(); ++id) {
      v.words.push_back(tokeniser(source).token(id));
    }
    v.send = [this, own, source](int64_t first, int64_t count) {
      TextPairs pairs;
      std::vector<std::vector<int32_t>> sent;
      for (int64_t i = first; i < first + count; ++i) {
        sent.push_back(row_of(tokeniser(source).encode(own[static_cast<size_t>(i)]), source));
        pairs.tokens.push_back(texts_of(tokeniser(source), sent.back()));
      }
      const std::lock_guard again(mutex_);
      pairs.features = features(sent, source);
      return pairs;
    };
    add_truth(rows, source, side->truth);
    kept = side;
    return kept;
  }

  void add_truth(const std::vector<std::vector<int32_t>>& rows, bool source,
                 TextTruth& truth) const {
    const Tokeniser& words = tokeniser(source);
    for (int64_t s = 0; s < scored_; ++s) {
      const auto& row = rows[static_cast<size_t>(s)];
      TokenTexts tokens;
      for (const int32_t id : row) {
        tokens.push_back(id == kBegin || id == kEnd ? "" : words.token(id));
      }
      truth.tokens.push_back(std::move(tokens));
      truth.lines.push_back(source ? lines_[static_cast<size_t>(s)] : words.decode(row));
    }
    std::map<int32_t, int64_t> counts;
    for (const std::string& line : source ? data_.train.source : data_.train.target) {
      for (const int32_t id : words.encode(line)) ++counts[id];
    }
    int64_t most = 0;
    for (const auto& [id, count] : counts) {
      if (id != kUnknown && count <= kRare) truth.rare.insert(words.token(id));
      if (count > most) most = count, truth.common = words.token(id);
    }
  }

  static constexpr int64_t kRare = 5, kPairs = 20000;
  const fs::path folder_;
  const RunConfig config_;
  const TextData data_;
  const TextEdgeBundle edge_;
  const TextCloudBundle cloud_;
  int64_t scored_ = 0, public_ = 0;
  std::vector<std::string> lines_;  // of the traffic: those that are scored first
  std::mutex mutex_;                // of what follows
  Rng noise_;
  std::vector<std::vector<int32_t>> translations_;
  std::map<bool, std::shared_ptr<const Side>> sides_;
};

void print_text_results(const fs::path& folder) {
  results::RunSummary summary;
  results::read(folder / "summary.json", summary);
  fmt::print("\n{}: {} h={}, BLEU {:.1f}\n{:<14} {:<24} {:>20} {:>8} {:>6} {:>7} {:>7} {:>7}\n",
             folder.string(), summary.protection(), summary.text().head_layers(),
             summary.text().bleu(), "attack", "side", "tokens % [95 %]", "ROUGE-L", "BLEU",
             "exact %", "rare %", "names %");
  for (const fs::path& file : result_files(folder)) {
    results::AttackResult r;
    results::read(file, r);
    if (r.has_error()) fmt::print("{:<14} failed: {}\n", r.attack(), r.error());
    if (r.has_auc()) {
      fmt::print("{:<14} {:<24} AUC {:.4f} [{:.4f}, {:.4f}]; .5 is chance\n", r.attack(), "source",
                 r.auc().mean(), r.auc().low(), r.auc().high());
    }
    for (const results::AttackResult::Text& t : r.text()) {
      const auto percent = [](bool there, double value) {
        return there ? fmt::format("{:.1f}", 100 * value) : "";
      };
      fmt::print("{:<14} {:<24} {:>20} {:>8.3f} {:>6.1f} {:>7.1f} {:>7} {:>7}\n", r.attack(),
                 t.side(),
                 fmt::format("{:.1f} [{:.1f}, {:.1f}]", 100 * t.tokens().mean(),
                             100 * t.tokens().low(), 100 * t.tokens().high()),
                 t.rouge_l().mean(), t.bleu(), 100 * t.exact(),
                 percent(t.has_rare_words(), t.rare_words()), percent(t.has_names(), t.names()));
    }
  }
}

class TextScenario : public Scenario {
 public:
  std::string impossible(const RunConfig& config) const override { return text_impossible(config); }

  std::string identity(const RunConfig& config) const override { return training_identity(config); }

  std::vector<std::string> attacks(const std::vector<std::string>& named,
                                   const std::string&) const override {
    for (const std::string& attack : named) make_text_attack(attack);  // usage Error if unknown
    return named.empty() ? text_attack_names() : named;
  }

  std::vector<Task> tasks(const std::vector<ScenarioRun>& runs, const TaskOptions&) const override {
    std::vector<Task> tasks;
    for (const ScenarioRun& run : runs) {
      Task training;
      training.id = task_prefix(run.name) + "train";
      training.done = fs::exists(run.folder / "DONE");
      training.device = parse_devices(run.config.device())[0];
      training.gigabytes = kGigabytes;
      training.cost = kNetSeconds * run.config.ensemble().nets() * run.config.stage1().epochs();
      training.run = [run](TaskContext& context) {
        const ProgressCapture capture(
            [&](const ProgressStep& step) { context.report(0, step.note); });
        train_text_run(run.config, run.folder);
      };
      tasks.push_back(training);
      add_attacks(run, training, tasks);
    }
    return tasks;
  }

 private:
  static void add_attacks(const ScenarioRun& run, const Task& training, std::vector<Task>& tasks) {
    std::set<std::string> named(run.attacks.begin(), run.attacks.end()), missing;
    for (const std::string& attack : named) {
      if (!Target::done(run.folder, attack, run.config)) missing.insert(attack);
    }
    const auto target = std::make_shared<SharedTarget<Target>>(run, missing.size());
    for (const std::string& attack : run.attacks) {
      if (named.erase(attack) == 0) continue;  // named twice
      Task task;
      task.id = task_prefix(run.name) + "attack/" + attack;
      task.needs = {training.id};
      task.done = !missing.contains(attack);
      task.device = training.device;
      task.gigabytes = kGigabytes;
      task.cost = kAttackSeconds;
      task.run = [target, attack](TaskContext& context) {
        target->use([&](Target& opened) { opened.run(attack, context); });
      };
      tasks.push_back(task);
    }
  }

  // For the plan of a sweep: an epoch of one net, and an attack, on one thread.
  static constexpr double kNetSeconds = 60, kAttackSeconds = 60, kGigabytes = 1;
};

}  // namespace

bool is_text(const RunConfig& config) {
  return config.text().has_direction() &&
         '"' + config.text().direction() + '"' != default_text("text.direction");
}

const Scenario& text_scenario() {
  static const TextScenario scenario;
  return scenario;
}

bool train_text_run(const RunConfig& config, const fs::path& folder) {
  if (const std::string reason = text_impossible(config); !reason.empty()) usage_fail(reason);
  const RunFacts facts{command_line(), backend(parse_devices(config.device())[0]).description(),
                       config.seed()};
  const bool done = fs::exists(folder / "DONE");
  if (done) {
    RunDir(folder, training_identity(config), facts);  // refuses a folder of another configuration
    return false;
  }
  const TextData data = load_text(config);
  RunDir run(folder, training_identity(config), facts);
  if (config.tensorboard()) run.write_events();
  train_text(config, run, data);
  run.mark_done();
  return true;
}

int attack_text_runs(const std::vector<fs::path>& runs, const std::vector<std::string>& attacks,
                     const RunConfig& wanted, bool again, std::stop_token stop) {
  std::vector<ScenarioRun> all;
  for (const fs::path& run : runs) {
    all.push_back(
        {run.string(), run, attacked_config(run, wanted), text_scenario().attacks(attacks, "")});
  }
  const int failed = run_attack_tasks(text_scenario(), all, again, stop);
  for (const fs::path& run : runs) print_text_results(run);
  return failed;
}

}  // namespace ens
