// SPDX-License-Identifier: Apache-2.0
#include "studio/plans.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "attacks/disguise/registry.h"
#include "attacks/split/registry.h"
#include "base/hash.h"
#include "base/strings.h"
#include "lab/config_flags.h"
#include "lab/scenarios/split.h"
#include "nn/data/dataset.h"
#include "proto/protections.h"
#include "studio/sets.h"
#include "studio/site.h"
#include "studio/views.h"

namespace ens {

const std::vector<std::string> kSetClassifiers = {"lenet", "resnet18", "vgg16", "vit"};

namespace {

namespace fs = std::filesystem;

// `plan` gets the folder of a training with these settings: equal ones share it, so that the same
// request goes on with what is there.
void add_folder(const Index& index, const std::string& stem, const std::string& all,
                JobPlan& plan) {
  plan.out = index.root() / "trainings" /
             fmt::format("{}-{}", stem, to_hex(sha256(all.data(), all.size())).substr(0, 8));
  plan.run = index.id_of(plan.out);
}

JobPlan plan_training(const studio::JobRequest& r, const Index& index) {
  std::vector<std::string> set;
  const auto add = [&](const char* path, const std::string& value) {
    set.push_back(fmt::format("{}={}", path, value));
  };
  const auto add_word = [&](const char* path, const std::string& value) {
    const bool word = !value.empty() && std::ranges::all_of(value, [](unsigned char c) {
      return std::isalnum(c) || c == '_' || c == '-';
    });
    if (!word) throw Refusal(400, "'" + value + "' is no word", path);
    add(path, value);
  };
  add_word("data.name", r.data());
  add_word("protection.kind", r.protection());
  if (r.has_architecture()) add_word("model.architecture", r.architecture());
  if (r.has_width()) add("model.width", std::to_string(r.width()));
  if (r.has_head()) add("model.head_cells", std::to_string(r.head()));
  if (r.has_tail()) add("model.tail_cells", std::to_string(r.tail()));
  if (r.has_nets()) add("ensemble.nets", std::to_string(r.nets()));
  if (r.has_selected()) add("ensemble.selected", std::to_string(r.selected()));
  if (r.has_sigma()) add("ensemble.sigma", fmt::format("{}", r.sigma()));
  if (r.has_lambda()) add("ensemble.lambda", fmt::format("{}", r.lambda()));
  if (r.has_epochs()) {
    add("stage1.epochs", std::to_string(r.epochs()));
    add("stage2.epochs", std::to_string(r.epochs()));
  }
  if (r.has_rate()) add("stage1.lr", fmt::format("{}", r.rate()));
  if (r.images() > 0) add("data.train_limit", std::to_string(r.images()));
  ConfigFlags flags;
  flags.overrides = set;
  const RunConfig config = flags.resolve();  // its rules refuse what cannot be
  if (const std::string why = split_scenario().impossible(config); !why.empty())
    throw Refusal(400, why, "training");
  DataOptions data;
  data.name = config.data().name();
  if (!dataset_present(data))
    throw Refusal(409, "the data set " + data.name + " is not on this machine", "data",
                  "ensembler data get " + data.name);

  JobPlan plan;
  const ProtectionInfo& protection = protection_info(config.protection().kind());
  plan.title = fmt::format("Train {} on {}", protection.title, data.name);
  add_folder(index, data.name + "-" + protection.kind, join(set, "\n"), plan);
  plan.arguments = {"train", "--out", plan.out.string()};
  for (const std::string& setting : set)
    plan.arguments.insert(plan.arguments.end(), {"--set", setting});
  return plan;
}

// The cloud's training on a set, or the same on plain images.
JobPlan plan_set(const studio::JobRequest& r, const Index& index, const DisguisedSets& sets) {
  std::vector<std::string> set;
  const std::string& classifier = r.architecture();
  if (std::ranges::find(kSetClassifiers, classifier) == kSetClassifiers.end())
    throw Refusal(400, "there is no such classifier", "architecture",
                  "one of " + join(kSetClassifiers));
  set.push_back("model.architecture=" + classifier);
  if (classifier == "resnet18" || classifier == "vgg16") set.push_back("model.width=16");
  if (classifier == "vit") set.push_back("stage1.optimizer=adamw");
  set.push_back("stage1.batch=64");
  set.push_back(fmt::format("stage1.epochs={}", r.epochs()));
  set.push_back(fmt::format("stage1.lr={}", r.rate()));
  const bool plain = r.kind() == studio::JobRequest::PLAIN;
  JobPlan plan;
  if (plain) {
    const studio::DisguiseReport owner = sets.report(r.set());
    set.push_back("disguise.method=identity");
    set.push_back("data.name=" + owner.data());
    set.push_back("data.public_images=0");
    set.push_back(fmt::format("data.train_limit={:.0f}", owner.files(0).rows()));
    if (owner.files_size() > 1)
      set.push_back(fmt::format("data.test_limit={:.0f}", owner.files(1).rows()));
    plan.title = fmt::format("Train {} on plain images", classifier);
  } else {
    plan.title = fmt::format("Train {} on set {}", classifier, r.set().substr(0, 6));
  }
  ConfigFlags flags;
  flags.overrides = set;
  flags.resolve();  // its rules refuse what cannot be
  const std::string all = join(set, "\n");
  if (plain) {
    add_folder(index, "plain-" + classifier, all, plan);
    plan.arguments = {"train", "--out", plan.out.string()};
  } else {
    const fs::path files = sets.upload(r.set());
    add_folder(index, "set-" + r.set().substr(0, 6) + "-" + classifier, r.set() + all, plan);
    plan.arguments = {"disguise",
                      "train",
                      (files / "train.h5").string(),
                      "--test",
                      (files / "test.h5").string(),
                      "--out",
                      plan.out.string()};
  }
  for (const std::string& setting : set)
    plan.arguments.insert(plan.arguments.end(), {"--set", setting});
  return plan;
}

JobPlan plan_attack(const studio::JobRequest& r, const Index& index) {
  const auto snapshot = index.snapshot();
  const Index::Run& run = find_run(*snapshot, r.run());
  if (run.entry.status() != "finished")
    throw Refusal(409, "the run is not finished", "run", "train it first");
  const std::vector<std::string> names =
      run.entry.method().empty() ? attack_names() : disguise_attack_names();
  if (std::ranges::find(names, r.attack()) == names.end())
    throw Refusal(400, "there is no such attack", "attack", "one of " + join(names));
  JobPlan plan;
  plan.title = r.attack() + " on " + run.entry.name();
  plan.out = run.folder;
  plan.run = run.entry.id();
  plan.arguments = {"attack", run.folder.string(), "--attack", r.attack()};
  return plan;
}

}  // namespace

std::vector<JobPlan> plan_demo(const Index& index) {
  std::vector<JobPlan> plans;
  for (const auto& [config, what] : {std::pair("studio-demo-disguise", "disguised training"),
                                     std::pair("studio-demo", "split inference")}) {
    JobPlan& plan = plans.emplace_back();
    plan.title = fmt::format("Prepare the demonstration: {}", what);
    plan.out = index.root() / config;
    plan.arguments = {"sweep", find_config(config).string(), "--out", plan.out.string()};
    plan.group = index.id_of(plan.out);
  }
  return plans;
}

JobPlan plan_job(const studio::JobRequest& request, const Index& index, const DisguisedSets& sets) {
  if (!request.has_kind()) throw Refusal(400, "what kind of job?", "kind", "see studio/api.md");
  switch (request.kind()) {
    case studio::JobRequest::TRAIN:
      return plan_training(request, index);
    case studio::JobRequest::ATTACK:
      return plan_attack(request, index);
    case studio::JobRequest::SET:
    case studio::JobRequest::PLAIN:
      return plan_set(request, index, sets);
    default:
      break;
  }
  throw Refusal(400, "there is no such kind of job", "kind");
}

}  // namespace ens
