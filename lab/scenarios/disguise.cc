// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/disguise.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "attacks/core/evaluator.h"
#include "attacks/disguise/registry.h"
#include "attacks/split/grant.h"
#include "attacks/split/mean_image.h"
#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/threads.h"
#include "disguise/key/key.h"
#include "disguise/owner/apply.h"
#include "disguise/owner/queries.h"
#include "disguise/set/set.h"
#include "disguise/train/model.h"
#include "disguise/train/train.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "lab/references.h"
#include "lab/results.h"
#include "lab/scenarios/attack_tasks.h"
#include "lab/scenarios/shared_target.h"
#include "lab/scenarios/split.h"
#include "lab/scenarios/split_training.h"
#include "lab/scenarios/text.h"
#include "lab/scores.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGallery = 1000;  // originals that a query is looked for among

// ---- training

DisguisedImages images_of_key(const RunConfig& config, const Dataset& data) {
  return {{data.channels, data.height, data.width}, config.data().fit(), data.class_names};
}

// The method and those of its settings that tables tell apart: "rmt, 4x4 blocks, noise 25".
std::string settings_for_tables(const DisguiseConfig& disguise) {
  std::string out;
  const auto add = [&](const std::string& text) { out += (out.empty() ? "" : ", ") + text; };
  const std::string& method = disguise.method();
  if (method == "rmt") {
    const RmtConfig &rmt = disguise.rmt(), usual;
    add(rmt.block() + " blocks");
    if (rmt.side() != "right") add("side " + rmt.side());
    if (rmt.share() != "position") add("one matrix");
    if (rmt.matrix() != "orthogonal") add(rmt.matrix());
    if (rmt.noise() > 0) {
      add(fmt::format("noise {:g}{}{}", rmt.noise(),
                      rmt.noise_law() == "uniform" ? "" : " " + rmt.noise_law(),
                      rmt.noise_place() == "before" ? "" : " after"));
    }
    if (rmt.permute()) add("blocks permuted");
  } else if (method == "aes") {
    add(disguise.aes().unit() + " units");
    if (disguise.aes().keys() != "one") add("a key a " + disguise.aes().keys());
  } else if (method == "neuracrypt") {
    const NeuracryptConfig& n = disguise.neuracrypt();
    add(fmt::format("patches of {}, d = {}, ", n.patch(), n.width()) +
        (n.depth() < 0 ? "linear" : fmt::format("depth {}", n.depth())));
  } else if (method == "instahide") {
    const InstahideConfig& i = disguise.instahide();
    const bool cross = i.mix() == "cross";
    add(fmt::format("{}, k = {}, {} encodings, {} queries", i.mix(),
                    i.k() > 0 ? i.k()
                    : cross   ? 6
                              : 4,
                    i.encodings(), i.queries()));
  } else if (method == "dp") {
    add(fmt::format("\u03b5 = {:g}", disguise.dp().epsilon()));
  } else if (method == "noise") {
    add(fmt::format("\u03c3 = {:g}", disguise.sigma()));
  }
  if (disguise.permute_labels()) add("labels renamed");
  if (disguise.augment() > 1) add(fmt::format("{} versions", disguise.augment()));
  return out;
}

// Of one image, on one thread.
double owner_microseconds(const DisguiseKey& key, const Dataset& data) {
  const Tensor images = first_pixels(data, 256);
  const auto transform = key.transform();
  FreshRandomness fresh;
  double best = 0;
  std::exception_ptr failure;
  const auto measure = [&] {
    set_compute_threads(1);
    for (int i = 0; i < 3; ++i) {
      const auto start = std::chrono::steady_clock::now();
      transform->apply(images, fresh);
      const std::chrono::duration<double, std::micro> time =
          std::chrono::steady_clock::now() - start;
      const double each = time.count() / static_cast<double>(images.dim(0));
      best = i == 0 ? each : std::min(best, each);
    }
  };
  std::thread([&] {
    try {
      measure();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return best;
}

DisguiseKey owners_key(const RunConfig& config, const RunDir& run, const Dataset& train) {
  const fs::path file = run.path("owner/owner.key");
  fs::permissions(file.parent_path(), fs::perms::owner_all);
  if (fs::exists(file)) return DisguiseKey::read(file);
  DisguiseKey key =
      DisguiseKey::make(config.disguise(), images_of_key(config, train), config.seed(),
                        key_samples(config.disguise(), train, mixed_in(config).get()));
  key.write(file);
  return key;
}

// A set that a killed training left is whole.
fs::path owners_set(const DisguiseKey& key, const RunConfig& config, const RunDir& run,
                    const Dataset& data, const std::string& split) {
  const fs::path file = run.path("owner/" + split + ".h5");
  if (fs::exists(file)) return file;
  ApplyOptions options;
  options.crop_padding = config.data().crop_padding();
  options.flip = config.data().flip();
  const auto public_data = mixed_in(config);
  options.public_data = public_data.get();
  apply_disguise(key, data, split, file, options);
  return file;
}

// What the owner sees, whose queries may be several rows each; the cloud counts single rows.
double owners_accuracy(const DisguiseKey& key, const fs::path& model_file, const Dataset& test) {
  constexpr int64_t kImages = 128;
  const DisguisedModel model = read_disguised_model(model_file);
  DisguisedQueries queries(key, model.key_id, model.row(), model_file.string());
  double right = 0;
  for (int64_t first = 0; first < test.count(); first += kImages) {
    const int64_t count = std::min(kImages, test.count() - first);
    const Tensor rows = queries.disguise(images_of(test, first, count));
    right += accuracy(queries.own_classes(classify_disguised(model, rows)),
                      labels_of(test, first, count)) *
             static_cast<double>(count);
  }
  return right / static_cast<double>(test.count());
}

void describe(const RunConfig& config, const DisguiseKey& key, const Dataset& train,
              results::RunSummary& summary) {
  summary.set_protection("disguise");
  summary.set_data(config.data().name());
  summary.set_train_images(static_cast<int32_t>(train.count()));
  results::RunSummary::Disguise& disguise = *summary.mutable_disguise();
  disguise.set_method(key.method());
  disguise.set_settings(settings_for_tables(config.disguise()));
  disguise.set_owner_microseconds(owner_microseconds(key, train));
  disguise.set_image_bytes(static_cast<double>(train.image_size()));
  disguise.set_key_bytes(static_cast<double>(key.derived_bytes()));
  if (key.insecure()) disguise.set_insecure_secrets(true);
}

// ---- attacks

// Another key for the same images, from public ones.
DisguiseKey key_of_attacker(const DisguiseKey& key, const RunConfig& config) {
  return DisguiseKey::make(key.settings(), key.images(), config.seed() + 1,
                           key_samples(key.settings(), *shared_dataset(config, DataPart::kPublic),
                                       mixed_in(config).get()));
}

// A finished run, as its attacks meet it.
class Target {
 public:
  Target(const fs::path& folder, const RunConfig& wanted)
      : folder_(folder),
        config_(attacked(folder, wanted)),
        key_(DisguiseKey::read(folder / "owner/owner.key")),
        transform_(key_.transform()),
        fresh_(key_.fresh("query")),
        other_key_(key_of_attacker(key_, config_)),
        other_transform_(other_key_.transform()),
        set_(folder / "owner/train.h5") {
    const auto test = shared_dataset(config_, DataPart::kTest);
    check_classes(*test, key_.images().class_names, folder.string());
    const auto pool = shared_dataset(config_, DataPart::kPublic);
    if (pool->count() == 0) {
      usage_fail("no images were set aside for attackers when this run was trained",
                 folder.string(), "train again with data.public_images above 0");
    }
    roles_ = divide_images(*pool, *test, config_.attack(), first_attack_seed(config_));
    truth_ = images_of(roles_.scored, 0, roles_.scored.count());
    const int64_t more = std::min(roles_.traffic.count(), kGallery - truth_.dim(0));
    gallery_ = truth_;
    if (more > 0) {
      Shape both = truth_.shape();
      both.set(0, truth_.dim(0) + more);
      gallery_ = Tensor::empty(both);
      gallery_.rows(0, truth_.dim(0)).copy_from(truth_);
      gallery_.rows(truth_.dim(0), more).copy_from(images_of(roles_.traffic, 0, more));
    }
    queries_ = apply(truth_);
    choose_candidates(DisguisedSetReader(folder / "owner/test.h5"), first_attack_seed(config_));
  }

  // The run's configuration, with the settings of the attacks that are wanted.
  static RunConfig attacked(const fs::path& folder, RunConfig wanted) {
    RunConfig config = attacked_config(folder, std::move(wanted));
    if (config.attack().public_source() != "disjoint") {
      usage_fail("attacks on disguised training know no private images, and '" +
                     config.attack().public_source() + "' would give them those",
                 "attack.public_source", "set attack.public_source=disjoint");
    }
    return config;
  }

  static bool done(const fs::path& folder, const std::string& attack, const RunConfig& wanted) {
    try {
      return has_result(folder, attack, attacked(folder, wanted).attack());
    } catch (const std::exception&) {  // a damaged run or result: the attack will say so
      return false;
    }
  }

  void run(const std::string& name_of_attack, TaskContext& task) {
    const auto attack = make_disguise_attack(name_of_attack);
    const fs::path into = folder_ / "attack" / attack->name();
    fs::create_directories(into);
    AttackContext context;
    context.settings = config_.attack();
    context.device = parse_devices(config_.device())[0];
    context.on_progress = [&](int64_t, const std::string& note) {
      task.report(0, name_of_attack + ": " + note);
    };
    results::AttackResult result;
    std::string failure;
    bool scored = false;
    const DisguiseVictim victim = this->victim();
    const DisguiseSetting setting{victim.disguise, victim.image, set_.info().shape,
                                  victim.training_rows, roles_.public_data.count()};
    if (const std::string reason = attack->not_applicable_reason(setting); !reason.empty()) {
      result.set_pointless(reason);
    } else {
      try {
        const uint64_t first_seed = first_attack_seed(config_);
        const Evaluator evaluator = this->evaluator(context);
        std::vector<AttackScore> by_seed;
        for (int i = 0; i < seeds_of(*attack, config_.attack()); ++i) {
          context.seed = first_seed + static_cast<uint64_t>(i);
          by_seed.push_back(evaluator.evaluate(*attack, first_seed,
                                               [&] { return attack->run(victim, context); }));
        }
        result =
            write_scores(into, by_seed, first_seed, roles_, truth_, config_.attack().keep_images());
        fill(result.mutable_floor(), floor());
        scored = true;
      } catch (const Stopped&) {
        throw;
      } catch (const std::exception& e) {
        failure = e.what();
        result.set_error(failure);
      }
    }
    if (!scored) fs::remove(into / kScoresFile);
    if (!scored || !config_.attack().keep_images()) fs::remove(into / kImagesFile);
    result.set_attack(attack->name());
    result.set_title(attack->title());
    result.set_level(name(attack->level()));
    result.set_metric(config_.attack().metric());
    result.set_tier(config_.attack().tier());
    result.set_settings(to_text(config_.attack()));
    result.set_device(backend(context.device).description());
    result.set_dtype(name(context.dtype));
    result.set_observed("disguised queries");
    results::write(into / "result.json", result);
    if (!failure.empty()) fail(failure);
  }

 private:
  Tensor apply(const Tensor& images) { return apply(*transform_, images); }
  Tensor apply(const Transform& transform, const Tensor& images) {
    Tensor pixels = images.clone();
    for (float& v : pixels.span<float>()) v = std::round(255 * v);
    std::lock_guard lock(fresh_mutex_);
    return transform.apply(pixels, fresh_);
  }

  // As many training rows as test rows, in random order.
  void choose_candidates(const DisguisedSetReader& others, uint64_t seed) {
    constexpr int64_t kMost = 2000;
    const int64_t n = std::min({kMost, set_.info().rows, others.info().rows});
    const Tensor in = set_.rows(0, n), out = others.rows(0, n);
    const std::vector<int32_t> in_labels = set_.labels(), out_labels = others.labels();
    candidates_ = Tensor::empty(batched(2 * n, set_.info().shape));
    const std::vector<int64_t> order = Rng(seed, "candidates for membership").permutation(2 * n);
    for (int64_t i = 0; i < 2 * n; ++i) {
      const int64_t from = order[static_cast<size_t>(i)];
      const bool member = from < n;
      candidates_.rows(i, 1).copy_from(member ? in.rows(from, 1) : out.rows(from - n, 1));
      candidate_labels_.push_back(member ? in_labels[static_cast<size_t>(from)]
                                         : out_labels[static_cast<size_t>(from - n)]);
      members_.push_back(member);
    }
  }

  DisguiseVictim victim() {
    DisguiseVictim v;
    v.disguise = key_.settings();
    v.image = {truth_.dim(1), truth_.dim(2), truth_.dim(3)};
    v.training_rows = set_.info().rows;
    v.rows = [this](int64_t first, int64_t count) { return set_.rows(first, count); };
    v.queries = queries_;
    v.public_data = &roles_.public_data;
    v.private_images = [this] { return gallery_; };
    v.private_rows = [this] {
      const int64_t m = queries_.dim(0), others = gallery_.dim(0) - m;
      Shape all = queries_.shape();
      all.set(0, m + others);
      Tensor rows = Tensor::empty(all);
      rows.rows(0, m).copy_from(queries_);
      if (others > 0) rows.rows(m, others).copy_from(apply(gallery_.rows(m, others)));
      return rows;
    };
    v.apply = [this](const Tensor& images) { return apply(images); };
    v.apply_other_key = [this](const Tensor& images) { return apply(*other_transform_, images); };
    const auto model = read_disguised_model(folder_ / "cloud/model.h5").net;  // of this attack
    model->to(parse_devices(config_.device())[0]);
    v.model = model;
    v.candidates = candidates_;
    v.candidate_labels = candidate_labels_;
    return v;
  }

  Evaluator evaluator(const AttackContext& context) const {
    Evaluator out(truth_, metric_mode(config_.attack()));
    int64_t seen = 0;
    const auto learns = [&](int64_t images) {
      seen += images;
      context.report(0, fmt::format("training the reference classifier, {} of {} images", seen,
                                    config_.attack().reference_images()));
    };
    // It ranks candidates, too, and so may know no more than a public image tells.
    out.set_reference_classifier(shared_reference(config_, learns, DataPart::kPublic),
                                 roles_.scored.labels);
    out.set_gallery(gallery_);
    out.set_members(members_);
    return out;
  }

  // The mean public image, which looks at no query.
  AttackScore floor() const {
    const std::vector<float> mean = mean_image(roles_.public_data);
    Tensor images = Tensor::empty(truth_.shape());
    for (int64_t i = 0; i < truth_.dim(0); ++i) {
      std::ranges::copy(mean, images.data<float>() + i * std::ssize(mean));
    }
    AttackScore out;
    out.title = "the mean public image";
    out.scores = score(truth_, images, config_.seed(), metric_mode(config_.attack()));
    return out;
  }

  const fs::path folder_;
  const RunConfig config_;
  const DisguiseKey key_;
  const std::unique_ptr<Transform> transform_;
  std::mutex fresh_mutex_;
  FreshRandomness fresh_;
  const DisguiseKey other_key_;  // that the cloud makes for itself
  const std::unique_ptr<Transform> other_transform_;
  const DisguisedSetReader set_;
  ImageRoles roles_;
  Tensor truth_, gallery_, queries_;
  Tensor candidates_;  // for membership
  std::vector<int32_t> candidate_labels_, members_;
};

class DisguiseScenario : public Scenario {
 public:
  std::string impossible(const RunConfig&) const override { return ""; }

  std::string identity(const RunConfig& config) const override { return training_identity(config); }

  std::vector<std::string> attacks(const std::vector<std::string>& named,
                                   const std::string&) const override {
    for (const std::string& attack : named) make_disguise_attack(attack);  // usage Error if unknown
    return named.empty() ? disguise_attack_names() : named;
  }

  std::vector<Task> tasks(const std::vector<ScenarioRun>& runs, const TaskOptions&) const override {
    std::vector<Task> tasks;
    for (const ScenarioRun& run : runs) {
      const std::string prefix = task_prefix(run.name);
      Task training;
      training.id = prefix + "train";
      training.done = fs::exists(run.folder / "DONE");
      training.device = parse_devices(run.config.device())[0];
      training.gigabytes = kGigabytes;
      training.cost = kTrainingSeconds * run.config.stage1().epochs();
      training.run = [run](TaskContext& context) {
        const ProgressCapture capture(
            [&](const ProgressStep& step) { context.report(0, step.note); });
        train_disguised_run(run.config, run.folder);
      };
      tasks.push_back(training);
      std::set<std::string> named(run.attacks.begin(), run.attacks.end()), missing;
      for (const std::string& attack : named) {
        if (!Target::done(run.folder, attack, run.config)) missing.insert(attack);
      }
      const auto target = std::make_shared<SharedTarget<Target>>(run, missing.size());
      for (const std::string& attack : run.attacks) {
        if (named.erase(attack) == 0) continue;  // named twice
        Task task;
        task.id = prefix + "attack/" + attack;
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
    return tasks;
  }

 private:
  // For the plan of a sweep; of an epoch, and of an attack, on one thread.
  static constexpr double kTrainingSeconds = 60, kAttackSeconds = 20, kGigabytes = 1;
};

}  // namespace

std::shared_ptr<const Dataset> mixed_in(const RunConfig& config) {
  const DisguiseConfig& disguise = config.disguise();
  if (disguise.method() != "instahide" || disguise.instahide().mix() != "cross") return nullptr;
  const std::string& name = disguise.instahide().public_data();
  if (name.empty()) {
    usage_fail("no public images are named", "disguise.instahide.public_data",
               "name a data set with images of the same shape");
  }
  if (name == config.data().name()) {
    usage_fail("'" + name + "' is the owner's own data set", "disguise.instahide.public_data",
               "name another one: what is mixed in is public");
  }
  RunConfig of_public = config;
  of_public.mutable_data()->set_name(name);
  of_public.mutable_data()->set_train_limit(0);
  return shared_dataset(of_public, DataPart::kTrainAndPublic);
}

bool is_disguised(const RunConfig& config) {
  return config.disguise().has_method() &&
         '"' + config.disguise().method() + '"' != default_text("disguise.method");
}

std::string disguise_settings_for_tables(const DisguiseConfig& disguise) {
  return settings_for_tables(disguise);
}

const Scenario& disguise_scenario() {
  static const DisguiseScenario scenario;
  return scenario;
}

const Scenario& scenario_of(const RunConfig& config) {
  if (is_text(config)) return text_scenario();
  return is_disguised(config) ? disguise_scenario() : split_scenario();
}

namespace {

// The cloud's own settings and facts. With disguise.insecure_seeded_secrets the key follows from
// the owner's seed, and her command line may name it.
uint64_t seed_of_cloud(uint64_t seed) {
  Hash hash;
  hash.add_number(seed);
  hash.add_text("cloud training");
  const std::string digest = hash.finish();
  uint64_t out = 0;
  for (size_t i = 0; i < 6; ++i) out = out << 8 | static_cast<uint8_t>(digest[i]);
  return out;  // below 2^53, so that info.json holds it exactly
}

}  // namespace

bool train_disguised_run(const RunConfig& config, const fs::path& folder) {
  const RunFacts facts{command_line(), backend(parse_devices(config.device())[0]).description(),
                       config.seed()};
  RunDir run(folder, training_identity(config), facts);
  if (run.done()) return false;
  const auto train = shared_dataset(config, DataPart::kTrain);
  const auto test = shared_dataset(config, DataPart::kTest);
  const DisguiseKey key = owners_key(config, run, *train);
  const DisguisedSetReader train_set(owners_set(key, config, run, *train, "train"));
  const DisguisedSetReader test_set(owners_set(key, config, run, *test, "test"));
  RunConfig cloud = config;
  cloud.set_seed(seed_of_cloud(config.seed()));
  train_disguised(cloud, run.path("cloud"), {"", facts.device, cloud.seed()}, train_set, &test_set);
  fs::copy_file(run.path("cloud/metrics.csv"), run.path("metrics.csv"),
                fs::copy_options::overwrite_existing);
  results::RunSummary summary;
  results::read(run.path("cloud/summary.json"), summary);
  describe(config, key, *train, summary);
  if (key.method() == "instahide")
    summary.set_accuracy(owners_accuracy(key, run.path("cloud/model.h5"), *test));
  results::write(run.path("summary.json"), summary);
  run.mark_done();
  return true;
}

int attack_disguised_runs(const std::vector<fs::path>& runs,
                          const std::vector<std::string>& attacks, const RunConfig& wanted,
                          bool again, std::stop_token stop) {
  std::vector<ScenarioRun> wanted_runs;
  for (const fs::path& run : runs) {
    wanted_runs.push_back({run.string(), run, Target::attacked(run, wanted),
                           disguise_scenario().attacks(attacks, "")});
  }
  return run_attack_tasks(disguise_scenario(), wanted_runs, again, stop);
}

}  // namespace ens
