#include "lab/runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "attacks/evaluator.h"
#include "edge/pipeline.h"
#include "ensemble/train/progress.h"
#include "ensemble/train/run_dir.h"
#include "ensemble/train/setup.h"
#include "ensemble/train/trainer.h"
#include "nn/core/backend.h"
#include "nn/core/error.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "nn/io/atomic_file.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

std::string g_command_line;

std::string read_text(const fs::path& file) {
  std::ifstream in(file);
  if (!in) fail("cannot read " + file.string(), "", "is this a finished run folder?");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

json interval(const Interval& i) { return {{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; }

json to_json(const AttackScore& s) {
  json out{{"attack", s.attack},
           {"title", s.title},
           {"level", s.level},
           {"best_of", s.best_of},
           {"chosen_by", s.best_of > 1 ? json("truth (SSIM)") : json(nullptr)},
           {"best_part", s.best_part},
           {"best_psnr", s.best_psnr},
           {"scored_images", s.scored_images},
           {"ssim", interval(s.scores.ssim)},
           {"psnr", interval(s.scores.psnr)},
           {"mse", interval(s.scores.mse)},
           {"negative",
            {{"ssim", s.negative.ssim.mean},
             {"psnr", s.negative.psnr.mean},
             {"better", s.negative.ssim.mean > s.scores.ssim.mean}}},
           {"own", nullptr},
           {"shadow_accuracy", s.shadow_accuracy < 0 ? json(nullptr) : json(s.shadow_accuracy)},
           {"seconds", s.seconds},
           {"parts", json::array()}};
  if (s.has_own) out["own"] = {{"ssim", s.own.ssim.mean}, {"psnr", s.own.psnr.mean}};
  const auto known = [](double value) {
    return std::isfinite(value) ? json(value) : json(nullptr);
  };
  for (const PartScore& p : s.parts) {
    out["parts"].push_back({{"name", p.part},
                            {"ssim", p.ssim},
                            {"psnr", p.psnr},
                            {"merit", known(p.merit)},
                            {"x", known(p.x)}});
  }
  if (s.own_pick >= 0) {
    const PartScore& p = s.parts[static_cast<size_t>(s.own_pick)];
    out["own_pick"] = {{"name", p.part}, {"ssim", p.ssim}, {"psnr", p.psnr}};
  }
  return out;
}

// The first images of [M,C,S,S] side by side: [C, S, count*S].
Tensor strip(const Tensor& images, int64_t count) {
  count = std::min(count, images.dim(0));
  const int64_t c = images.dim(1), h = images.dim(2), w = images.dim(3);
  Tensor out = Tensor::empty({c, h, w * count});
  const float* from = images.data<float>();
  float* to = out.data<float>();
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t row = 0; row < c * h; ++row) {
      std::copy_n(from + (i * c * h + row) * w, w, to + (row * count + i) * w);
    }
  }
  return out;
}

}  // namespace

// ---- configuration

void ConfigFlags::add_to(CLI::App& command) {
  command.add_option("-c,--config", file,
                     "Configuration (.txtpb), or the name of one that comes along");
  command.add_option("--set", overrides, "Override: path=value, e.g. --set stage1.epochs=3")
      ->allow_extra_args(false);
  command.add_option("--data", data_root,
                     "Folder with the data sets (default: $ENS_DATA, then the cache)");
}

RunConfig ConfigFlags::resolve() const {
  RunConfig config;
  if (!file.empty()) read_config(find_config(file), config);
  apply_overrides(overrides, config);
  if (!data_root.empty()) config.mutable_data()->set_root(data_root);
  complete(config);
  return config;
}

fs::path program_folder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

fs::path find_config(const std::string& name) {
  const fs::path bin = program_folder();
  const std::string with_ending = fs::path(name).has_extension() ? name : name + ".txtpb";
  for (const fs::path& candidate :
       {fs::path(name), fs::path("configs") / with_ending,
        bin / "../share/ensembler/configs" / with_ending, bin / "../../../configs" / with_ending}) {
    if (fs::is_regular_file(candidate)) return candidate;
  }
  usage_fail("no configuration '" + name + "'", "--config",
             "give a .txtpb file; examples are in configs/");
}

void remember_command_line(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) {
    g_command_line +=
        (i ? " " : "") + (i ? std::string(argv[i]) : fs::path(argv[0]).filename().string());
  }
}

const std::string& command_line() { return g_command_line; }

// ---- training

void train_run(const RunConfig& config, const fs::path& folder) {
  RunConfig identity = config;  // where the data lie does not change the result
  identity.mutable_data()->clear_root();
  const Device device = parse_device(config.device());
  const RunFacts facts{command_line(), backend(device).description(), config.seed()};
  if (fs::exists(folder / "DONE")) {
    RunDir(folder, to_text(identity), facts);  // refuses a folder of another configuration
    fmt::print(stderr, "{}: already trained\n", folder.string());
    return;
  }
  const Dataset train = load_dataset(data_options(config, DataSplit::kTrain), DataSplit::kTrain);
  const Dataset test = load_dataset(data_options(config, DataSplit::kTest), DataSplit::kTest);
  check(model_spec(config, train), split_of(config));  // before anything is written
  RunDir run(folder, to_text(identity), facts);
  train_ensemble(config, run, train, test);
  run.mark_done();
}

// ---- attacks

namespace {

// Everything about one run that attacks share.
struct Target {
  RunConfig config;
  CloudBundle cloud;
  std::unique_ptr<EdgePipeline> edge;
  std::mutex edge_mutex;  // a pipeline serves one thread at a time
  std::shared_ptr<Sequential> head;
  Tensor noise;
  std::vector<int> selected;
  Dataset public_data, private_data;
  Dataset others;  // private images beyond those that are scored
  Tensor traffic;  // computed when the first attack wants it
};

// The private images: the first test images, or the first of each class.
std::vector<int64_t> private_indices(const Dataset& test, const AttackConfig& settings) {
  std::vector<int64_t> chosen;
  std::set<int32_t> seen;
  for (int64_t i = 0; i < test.count(); ++i) {
    if (static_cast<int64_t>(chosen.size()) >= settings.scored_images()) break;
    if (settings.one_per_class() && !seen.insert(test.labels[static_cast<size_t>(i)]).second)
      continue;
    chosen.push_back(i);
  }
  return chosen;
}

std::shared_ptr<Target> open_target(const fs::path& folder, const AttackConfig& settings,
                                    const std::string& data_root) {
  auto t = std::make_shared<Target>();
  read_config(folder / "config.txtpb", t->config);
  if (!data_root.empty()) t->config.mutable_data()->set_root(data_root);
  complete(t->config);
  t->cloud = read_cloud_bundle(folder / "cloud.h5");
  EdgeBundle edge = read_edge_bundle(folder / "edge.h5");
  t->head = edge.head;
  t->noise = edge.noise;
  t->selected = edge.selector.selected();
  t->edge = std::make_unique<EdgePipeline>(std::move(edge));
  const Dataset train = load_dataset(data_options(t->config, DataSplit::kTrain), DataSplit::kTrain);
  const Dataset test = load_dataset(data_options(t->config, DataSplit::kTest), DataSplit::kTest);
  Rng rng(t->config.seed(), "attacker's public images");
  std::vector<int64_t> order = rng.permutation(train.count());
  order.resize(static_cast<size_t>(std::min(settings.public_images(), train.count())));
  t->public_data = train.pick(order);
  const std::vector<int64_t> scored = private_indices(test, settings);
  t->private_data = test.pick(scored);
  std::vector<int64_t> rest(static_cast<size_t>(test.count()));
  std::iota(rest.begin(), rest.end(), int64_t{0});
  std::erase_if(rest, [&](int64_t i) { return std::ranges::binary_search(scored, i); });
  rest.resize(
      static_cast<size_t>(std::min<int64_t>(std::ssize(rest), settings.observed_features())));
  t->others = test.pick(rest);
  return t;
}

Tensor smash_all(Target& target, const Tensor& images) {
  std::lock_guard lock(target.edge_mutex);
  return target.edge->smash(images);
}

// What the server keeps of the client's traffic: at most 1 GiB of features.
const Tensor& traffic_of(Target& target) {
  if (target.traffic.defined()) return target.traffic;
  constexpr int64_t kBatch = 128, kMost = int64_t{1} << 30;
  const Shape one = smashed_shape(target.cloud.info.model, target.cloud.info.split);
  const int64_t count = std::min(target.others.count(), kMost / (one.numel() * 4));
  Shape all{count, one[0]};
  if (one.rank() == 3) all = {count, one[0], one[1], one[2]};
  target.traffic = Tensor::empty(all);
  for (int64_t first = 0; first < count; first += kBatch) {
    const int64_t n = std::min(kBatch, count - first);
    target.traffic.rows(first, n).copy_from(smash_all(target, images_of(target.others, first, n)));
  }
  return target.traffic;
}

// Fills in what the attack's level grants.
void grant(AdversaryView& view, Target& target, const Attack& attack,
           const AttackOptions& options) {
  if (attack.wants_traffic()) view.traffic = traffic_of(target);
  if (attack.wants_subset()) view.subset = target.selected;
  if (const int64_t pairs = attack.wants_pairs(options); pairs > 0) {
    view.pair_images =
        images_of(target.public_data, 0, std::min(pairs, target.public_data.count()));
    view.pair_features = smash_all(target, view.pair_images);
  }
  if (attack.level() == KnowledgeLevel::kBlackBox) {
    view.query = [t = &target](const Tensor& images) { return smash_all(*t, images); };
  }
  if (attack.level() == KnowledgeLevel::kWhiteBox) {
    view.head = target.head;
    view.noise = target.noise;
  }
}

AttackOptions options_of(const AttackConfig& c) {
  AttackOptions o;
  o.shadow_epochs = c.shadow_epochs();
  o.decoder_epochs = c.decoder_epochs();
  o.batch = c.batch();
  o.lr = static_cast<float>(c.lr());
  o.shadow_channels = c.shadow_channels();
  o.shadow_layers = c.shadow_layers();
  o.shadow_augment = c.shadow_augment();
  o.shadow_lr = static_cast<float>(c.shadow_lr());
  o.shadow_bn_weight = static_cast<float>(c.shadow_bn_weight());
  o.shadow_starts = c.shadow_starts();
  o.shadow_start_images = c.shadow_start_images();
  o.subset.assign(c.subset().begin(), c.subset().end());
  o.subset_sizes.assign(c.subset_sizes().begin(), c.subset_sizes().end());
  o.screen_epochs = c.screen_epochs();
  o.screen_images = c.screen_images();
  o.keep = c.keep();
  o.restarts = c.restarts();
  o.alignment_steps = c.alignment_steps();
  o.alignment_batch = c.alignment_batch();
  o.rmle_iterations = c.rmle_iterations();
  o.rmle_lr = static_cast<float>(c.rmle_lr());
  o.rmle_tv = static_cast<float>(c.rmle_tv());
  o.rmle_l2 = static_cast<float>(c.rmle_l2());
  if (c.pairs_size() > 0) o.pairs.assign(c.pairs().begin(), c.pairs().end());
  return o;
}

}  // namespace

int run_attacks(const std::vector<AttackJob>& jobs, const AttackConfig& settings,
                const std::string& data_root, bool again) {
  struct Prepared {
    const AttackJob* job;
    std::shared_ptr<Target> target;
    std::unique_ptr<Attack> attack;
    AdversaryView view;
    Tensor truth;
    fs::path folder;
    std::string identity;
  };
  AttackOptions options = options_of(settings);
  std::vector<Prepared> prepared;
  std::map<fs::path, std::shared_ptr<Target>> targets;
  int64_t total = 0;
  for (const AttackJob& job : jobs) {
    Prepared p;
    p.job = &job;
    p.attack = make_attack(job.attack);
    p.folder = job.folder / "attack" / job.attack;
    p.identity =
        to_text(settings) + (job.observed.defined() ? "observed: wire\n" : "observed: edge\n");
    if (!again && fs::exists(p.folder / "result.json")) {
      const json before = json::parse(read_text(p.folder / "result.json"), nullptr, false);
      if (before.is_object() && before.value("settings", "") == p.identity &&
          !before.contains("error")) {
        fmt::print(stderr, "{}: already there\n", p.folder.string());
        continue;
      }
    }
    std::shared_ptr<Target>& target = targets[job.folder];
    if (!target) target = open_target(job.folder, settings, data_root);
    p.target = target;
    p.truth = images_of(target->private_data, 0, target->private_data.count());
    p.view.model = target->cloud.info.model;
    p.view.split = target->cloud.info.split;
    p.view.bodies = target->cloud.bodies;
    p.view.observed = job.observed.defined() ? job.observed : smash_all(*target, p.truth);
    p.view.public_data = &target->public_data;
    p.view.device = parse_device(target->config.device());
    p.view.dtype = choose_dtype(target->config.dtype(), p.view.device);
    p.view.seed = target->config.seed();
    grant(p.view, *target, *p.attack, options);
    total += p.attack->work(p.view, options);
    prepared.push_back(std::move(p));
  }
  if (prepared.empty()) return 0;

  Progress progress(fmt::format("{} attack{}", prepared.size(), prepared.size() == 1 ? "" : "s"),
                    total);
  options.on_progress = [&](int64_t images, const std::string& note) {
    progress.add(images);
    progress.note(note);
  };
  std::atomic<int> failures{0};
  run_side_by_side(static_cast<int>(prepared.size()), 0, [&](int i) {
    Prepared& p = prepared[static_cast<size_t>(i)];
    fs::create_directories(p.folder);
    json result;
    try {
      const MetricMode mode =
          settings.metric() == "he19" ? MetricMode::kHe19 : MetricMode::kDefault;
      const AttackScore score = Evaluator(p.truth, mode).evaluate(*p.attack, p.view, options);
      result = to_json(score);
      write_png(p.folder / "original.png", strip(p.truth, 16));
      write_png(p.folder / "reconstruction.png", strip(score.reconstruction, 16));
    } catch (const std::exception& e) {
      result = {{"attack", p.attack->name()},
                {"title", p.attack->title()},
                {"level", name(p.attack->level())},
                {"error", e.what()}};
      ++failures;
    }
    result["settings"] = p.identity;
    result["observed"] =
        p.job->observed.defined() ? "recorded on the wire" : "computed by the edge";
    write_file_atomically(p.folder / "result.json", result.dump(2) + "\n", /*secret=*/false);
  });
  return failures;
}

// ---- the table

void print_results(const std::vector<fs::path>& folders) {
  fmt::print("\n{:<12} {:>9}  {:<34} {:>16} {:>17}\n", "protection", "accuracy", "attack",
             "SSIM [95 %]", "PSNR dB [95 %]");
  for (const fs::path& folder : folders) {
    const json summary = json::parse(read_text(folder / "summary.json"));
    std::string left = fmt::format("{:<12} {:>7.1f} %", summary.at("protection").get<std::string>(),
                                   100 * summary.at("accuracy").get<double>());
    for (const std::string& attack : attack_names()) {
      const fs::path file = folder / "attack" / attack / "result.json";
      if (!fs::exists(file)) continue;
      const json r = json::parse(read_text(file));
      const std::string title = r.at("title").get<std::string>();
      if (r.contains("error")) {
        fmt::print("{}  {:<34} failed: {}\n", left, title, r.at("error").get<std::string>());
      } else {
        auto cell = [](const json& v, const char* format) {
          return fmt::format(fmt::runtime(format), v.at("mean").get<double>(),
                             v.at("low").get<double>(), v.at("high").get<double>());
        };
        fmt::print("{}  {:<34} {:>16} {:>17}\n", left, title,
                   cell(r.at("ssim"), "{:.3f} [{:.2f},{:.2f}]"),
                   cell(r.at("psnr"), "{:.1f} [{:.1f},{:.1f}]"));
      }
      left = fmt::format("{:<12} {:>9}", "", "");
    }
  }
}

}  // namespace ens
