// SPDX-License-Identifier: Apache-2.0
// Whole trainings of every kind of protection, small enough for seconds.
#include "ensemble/train/trainer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/process.h"
#include "edge/pipeline.h"
#include "ensemble/model/precision.h"
#include "experiment/setup.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "nn/io/checkpoint.h"
#include "proto/protections.h"
#include "tests/ensemble/train/same_run.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_same_run;
using test::weights;

const std::vector<std::string> kKinds = [] {
  std::vector<std::string> kinds;
  for (const ProtectionInfo& protection : protections()) kinds.push_back(protection.kind);
  return kinds;
}();

// Drawn figures of 16x16, a ResNet of width 4.
std::vector<std::string> settings(const std::string& kind, std::vector<std::string> more = {}) {
  std::vector<std::string> list{"data.name=shapes",
                                "data.image_size=16",
                                "data.train_limit=256",
                                "data.test_limit=64",
                                "model.width=4",
                                "model.stem_pool=false",
                                "ensemble.nets=2",
                                "ensemble.selected=1",
                                "ensemble.insecure_seeded_secrets=true",
                                "dtype=float32",
                                "stage1.epochs=3",
                                "stage1.batch=32",
                                "stage1.lr=0.05",
                                "stage2.epochs=3",
                                "stage2.batch=32",
                                "stage2.lr=0.05",
                                "protection.shredder.noises=3",
                                "protection.kind=" + kind};
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

RunConfig config_of(const std::string& kind, std::vector<std::string> more = {}) {
  RunConfig config;
  apply_overrides(settings(kind, std::move(more)), config);
  complete(config);
  return config;
}

// Trains in `folder`, after reusing stage 1 of `source_run` if one is given.
int train(const RunConfig& config, const fs::path& folder, const fs::path& source_run = {}) {
  const Dataset images = load_dataset(data_options(config, DataSplit::kTrain), DataSplit::kTrain);
  const Dataset test = load_dataset(data_options(config, DataSplit::kTest), DataSplit::kTest);
  RunDir run(folder, to_text(config), {"test", "CPU", config.seed()});
  const int reused = source_run.empty() ? 0 : reuse_stage1(config, folder, source_run);
  train_ensemble(config, run, images, test);
  run.mark_done();
  return reused;
}

json summary_of(const fs::path& folder) {
  return json::parse(std::ifstream(folder / "summary.json"));
}

// ---- every kind

class EveryKind : public testing::TestWithParam<std::string> {
 protected:
  test::TempDir temp_;
};

std::string kind_name(const testing::TestParamInfo<std::string>& info) { return info.param; }

// The accuracy in the summary is what edge and cloud reach together, computed by the edge's own
// pipeline and the cloud's bodies.
TEST_P(EveryKind, AccuracyIsThatOfEdgeAndCloud) {
  // Nothing random in use, so that the numbers are equal: one noise in the bank, no dropout. A
  // channel always has noise; with many bits it is small.
  const RunConfig config =
      config_of(GetParam(), {"protection.shredder.noises=1", "protection.dr.dropout=0",
                             "protection.channel.bits=3500", "data.test_limit=200",
                             "stage1.epochs=2", "stage2.epochs=2"});
  train(config, temp_ / "run");
  const CloudBundle cloud = read_cloud_bundle(temp_ / "run/cloud.h5");
  EdgePipeline edge(read_edge_bundle(temp_ / "run/edge.h5"), 16);
  const Dataset test = load_dataset(data_options(config, DataSplit::kTest), DataSplit::kTest);
  const Tensor features = edge.smash(images_of(test, 0, test.count()));
  const NoGrad no_grad;
  std::vector<float> answers;
  Shape shape;
  for (const auto& body : cloud.bodies) {
    const Tensor answer = body->forward(Var(features)).value();
    const std::vector<float> values = answer.to_vector();
    answers.insert(answers.end(), values.begin(), values.end());
    shape = answer.shape();
  }
  std::vector<int64_t> dims{std::ssize(cloud.bodies)};
  dims.insert(dims.end(), shape.dims().begin(), shape.dims().end());
  const Tensor logits = edge.finish(Tensor::from(answers, Shape(std::span<const int64_t>(dims))));
  const double together = accuracy(logits, labels_of(test, 0, test.count()));

  const json summary = summary_of(temp_ / "run");
  const double near_ties = summary.contains("channel") ? 0.04 : 0.0051;  // eight or one of 200
  EXPECT_NEAR(summary.at("accuracy").get<double>(), together, near_ties);
  EXPECT_EQ(summary.at("protection"), GetParam());
  EXPECT_EQ(summary.at("nets"), std::ssize(cloud.bodies));
  const double correlation = summary.at("distance_correlation");
  EXPECT_GT(correlation, -1);
  EXPECT_LE(correlation, 1);
  EXPECT_EQ(summary.contains("snr"), GetParam() == "shredder");
  EXPECT_EQ(summary.contains("similarity"), GetParam() == "ensembler");
}

// Killed whenever a checkpoint of some training has just appeared, and started again.
TEST_P(EveryKind, KilledAndResumedEndsInTheSameWeights) {
  std::vector<std::string> more{"protection.fresh_noise=true"};
  // Its opponent must have learned something, or else it would not matter what became of it.
  if (GetParam() == "ressfl") more.push_back("stage1.epochs=14");
  const auto start = [&](const fs::path& out) {
    std::vector<std::string> a{std::string(ENS_BIN_DIR) + "/ensembler", "train", "--out", out};
    for (const std::string& s : settings(GetParam(), more)) {
      a.insert(a.end(), {"--set", s});
    }
    return a;
  };
  Process whole(start(temp_ / "whole"),
                {.capture = true, .err_file = temp_ / "whole.txt", .err_append = true});
  ASSERT_EQ(whole.wait(), 0);
  const fs::path out = temp_ / "killed";
  int kills = 0;
  for (const char* file :
       {"stage1/net0.h5", "stage1/ensemble.h5", "stage2/ensemble.h5", "stage2/noise_bank.h5"}) {
    if (!fs::exists(temp_ / "whole" / file)) continue;
    Process p(start(out), {.capture = true, .err_file = temp_ / "killed.txt", .err_append = true});
    while (p.running() && !fs::exists(out / file)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!fs::exists(out / "DONE")) ++kills;
    p.signal(SIGKILL);
    p.wait();
  }
  EXPECT_GE(kills, 1);
  Process last(start(out), {.capture = true, .err_file = temp_ / "last.txt", .err_append = true});
  ASSERT_EQ(last.wait(), 0);
  expect_same_run(temp_ / "whole", out);
  if (GetParam() == "ressfl") {
    double success = 0;
    for (const Metric& m : read_run(out).metrics) {
      if (m.name == "adversary_success") success = m.value;
    }
    EXPECT_GT(success, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Trainer, EveryKind, testing::ValuesIn(kKinds), kind_name);

// ---- what the kinds leave in the edge's bundle

TEST(Kinds, LeaveTheirProtectionInTheBundle) {
  const test::TempDir temp;
  const auto protection = [&](const std::string& kind, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"stage1.epochs=1", "stage2.epochs=1"});
    const fs::path run = temp / (kind + std::to_string(more.size()));
    train(config_of(kind, more), run);
    return read_edge_bundle(run / "edge.h5").protection;
  };
  const auto deviation = [](const Tensor& noise) {
    double square = 0;
    for (float v : noise.to_vector()) square += double{v} * v;
    return std::sqrt(square / static_cast<double>(noise.numel()));
  };
  for (const char* kind : {"none", "random", "nopeek", "ressfl"}) {
    EXPECT_TRUE(protection(kind).empty()) << kind;
  }
  for (const char* kind : {"additive", "single", "ensembler"}) {
    const ProtectionSpec p = protection(kind);
    ASSERT_EQ(p.size(), 1u) << kind;
    EXPECT_EQ(p[0].name, "fixed_noise") << kind;
    EXPECT_EQ(p[0].values.rank(), 3) << kind;
    EXPECT_NEAR(deviation(p[0].values), 0.1, 0.02) << kind;
    const ProtectionSpec fresh = protection(kind, {"protection.fresh_noise=true"});
    ASSERT_EQ(fresh.size(), 1u) << kind;
    EXPECT_EQ(fresh[0].name, "fresh_noise") << kind;
    EXPECT_FLOAT_EQ(fresh[0].values.item(), 0.1f) << kind;
  }
  for (const char* kind : {"dr_single", "dr_ensemble"}) {
    const ProtectionSpec p = protection(kind, {"protection.dr.dropout=0.2"});
    ASSERT_EQ(p.size(), 2u) << kind;
    EXPECT_EQ(p[0].name, "dropout") << kind;
    EXPECT_FLOAT_EQ(p[0].values.item(), 0.2f) << kind;
    EXPECT_EQ(p[1].name, "fixed_noise") << kind;
  }
  const ProtectionSpec bank = protection("shredder");
  ASSERT_EQ(bank.size(), 1u);
  EXPECT_EQ(bank[0].name, "noise_bank");
  EXPECT_EQ(bank[0].values.dim(0), 3);
  const ProtectionSpec factors =
      protection("shredder", {"protection.shredder.form=multiplicative"});
  ASSERT_EQ(factors.size(), 1u);
  EXPECT_EQ(factors[0].name, "factor_bank");
}

// With common_head every net of stage 1 learned behind the same head, which was not trained; the
// client's own is another. What each selected net adds is in the summary, the largest first.
TEST(Kinds, NetsLearnBehindOneHeadWhereItIsAskedFor) {
  const test::TempDir temp;
  const auto head_of = [&](const fs::path& file, const std::string& prefix) {
    std::string text;
    for (const auto& [name, tensor] : read_checkpoint(file, "training").tensors) {
      if (!name.starts_with(prefix)) continue;
      for (float v : tensor.to_vector()) text += std::to_string(v) + " ";
    }
    return text;
  };
  for (const bool common : {false, true}) {
    const fs::path folder = temp / (common ? "common" : "own");
    train(config_of("ensembler",
                    {"ensemble.selected=2", "ensemble.net_loss=1",
                     std::string("ensemble.common_head=") + (common ? "true" : "false")}),
          folder);
    const std::string first = head_of(folder / "stage1/net0.h5", "net/head.");
    ASSERT_FALSE(first.empty());
    EXPECT_EQ(first == head_of(folder / "stage1/net1.h5", "net/head."), common);
    EXPECT_NE(first, head_of(folder / "stage2/ensemble.h5", "net/head."));
    const json nets = summary_of(folder).at("selected_nets");
    ASSERT_EQ(nets.size(), 2u);
    EXPECT_NEAR(nets[0].at("share").get<double>() + nets[1].at("share").get<double>(), 1, 1e-6);
    EXPECT_GE(nets[0].at("share"), nets[1].at("share"));
    EXPECT_GT(nets[0].at("accuracy"), 0);
  }
}

// With a large reward the noises grow far beyond where they began.
TEST(Kinds, ShreddersNoisesGrow) {
  const test::TempDir temp;
  for (const char* optimizer : {"stage2.optimizer=sgd", "stage2.optimizer=adam"}) {
    const fs::path run = temp / optimizer;
    train(config_of("shredder", {optimizer, "protection.shredder.noise_reward=5"}), run);
    double square = 0;
    const Tensor noise = read_edge_bundle(run / "edge.h5").protection.at(0).values;
    for (float v : noise.to_vector()) square += double{v} * v / static_cast<double>(noise.numel());
    EXPECT_GT(std::sqrt(square), 0.3) << optimizer;  // from 0.1
    EXPECT_GT(summary_of(run).at("snr").get<double>(), 0);
  }
}

TEST(Kinds, ATrainingThatLeavesTheNumbersSaysSo) {
  const test::TempDir temp;
  for (const char* kind : {"none", "dr_ensemble", "nopeek", "ressfl"}) {
    try {
      train(config_of(kind, {"stage1.lr=100", "stage1.schedule=constant", "stage1.epochs=20"}),
            temp / kind);
      ADD_FAILURE() << kind << " did not diverge";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("diverged"), std::string::npos) << error.what();
    }
  }
}

// ---- sharing stage 1

TEST(Stage1Identity, IsWhatDeterminesANetAndNothingElse) {
  const auto id = [](const std::string& kind, std::vector<std::string> more = {}) {
    return stage1_identity(config_of(kind, std::move(more)));
  };
  const std::string ensembler = id("ensembler");
  for (const char* same :
       {"ensemble.nets=5", "ensemble.lambda=1", "stage2.epochs=9", "stage2.lr=1", "attack.batch=7",
        "data.test_limit=10", "data.fit=stretch", "data.root=/elsewhere", "stage1.side_by_side=1",
        "model.tail_cells=2", "protection.dr.dropout=0.5", "ensemble.insecure_seeded_secrets=false",
        "ensemble.net_loss=1"}) {
    EXPECT_EQ(id("ensembler", {same}), ensembler) << same;
  }
  for (const char* other :
       {"seed=2", "dtype=bfloat16", "data.train_limit=100", "data.flip=false", "model.width=5",
        "model.head_cells=2", "ensemble.sigma=0.2", "ensemble.sigma=0", "stage1.epochs=4",
        "stage1.lr=1", "protection.fresh_noise=true", "ensemble.common_head=true"}) {
    if (std::string(other) == "dtype=bfloat16" &&
        choose_dtype("bfloat16", Device{}) == Dtype::kF32) {
      continue;
    }
    EXPECT_NE(id("ensembler", {other}), ensembler) << other;
  }
  const auto of_folder = [&](const char* fit) {
    return id("ensembler", {"data.name=folder:x", std::string("data.fit=") + fit});
  };
  EXPECT_NE(of_folder("crop"), of_folder("stretch"));
  EXPECT_EQ(id("single"), ensembler);  // its first net
  const std::string plain = id("none");
  for (const char* kind : {"additive", "shredder", "random"}) {
    EXPECT_EQ(id(kind), plain) << kind;
    EXPECT_EQ(id(kind, {"model.head_cells=2", "model.tail_cells=2", "ensemble.sigma=1",
                        "protection.shredder.noise_reward=3"}),
              plain)
        << kind;
  }
  EXPECT_EQ(id("ensembler", {"ensemble.sigma=0", "model.head_cells=2"}), plain);
  for (const char* kind : {"none", "single", "nopeek"}) {  // which have no stage 2
    EXPECT_EQ(id(kind, {"ensemble.common_head=true", "ensemble.net_loss=1"}), id(kind)) << kind;
    EXPECT_FALSE(config_of(kind, {"ensemble.common_head=true"}).ensemble().common_head());
  }
  std::map<std::string, std::string> seen{{plain, "none"}, {ensembler, "ensembler"}};
  for (const char* kind : {"dr_single", "dr_ensemble", "nopeek", "ressfl", "largest"}) {
    EXPECT_TRUE(seen.emplace(id(kind), kind).second) << kind << " is like " << seen[id(kind)];
  }
  EXPECT_NE(id("nopeek"), id("nopeek", {"protection.nopeek.distance_weight=3"}));
  EXPECT_NE(id("ressfl"), id("ressfl", {"protection.ressfl.adversary_weight=3"}));
  EXPECT_NE(id("largest"), id("largest", {"protection.largest.fraction=0.2"}));
  EXPECT_EQ(id("single"), id("single", {"protection.largest.fraction=0.2"}));
  EXPECT_NE(id("dr_single"), id("dr_single", {"protection.dr.dropout=0.1"}));
  EXPECT_NE(id("dr_ensemble"), id("dr_ensemble", {"ensemble.nets=3"}));
}

ino_t inode(const fs::path& file) {
  struct stat info {};
  return ::stat(file.c_str(), &info) == 0 ? info.st_ino : 0;
}

TEST(ReuseStage1, EndsAsIfItHadTrainedItself) {
  const test::TempDir temp;
  struct Case {
    std::string source_kind;
    std::vector<std::string> source_run;
    std::string kind;
    std::vector<std::string> more;
    int reused;
  };
  const std::vector<Case> cases = {
      // Another choice of the same nets.
      {"ensembler", {}, "ensembler", {"ensemble.selected=2", "ensemble.lambda=1"}, 2},
      // The same cells, cut elsewhere.
      {"none", {}, "none", {"model.head_cells=2", "model.tail_cells=2"}, 1},
      {"random", {"model.head_cells=3"}, "shredder", {"model.tail_cells=3"}, 1},
      {"single", {"model.tail_cells=2"}, "single", {}, 1},
      {"ressfl", {}, "ressfl", {"model.tail_cells=2"}, 1},
      {"dr_single", {}, "dr_single", {"model.tail_cells=3"}, 1},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const std::string number = std::to_string(i);
    const fs::path source_run = temp / ("source" + number), own = temp / ("own" + number),
                   reused = temp / ("reused" + number);
    train(config_of(c.source_kind, c.source_run), source_run);
    train(config_of(c.kind, c.more), own);
    EXPECT_EQ(train(config_of(c.kind, c.more), reused, source_run), c.reused) << c.kind;
    expect_same_run(own, reused);
    EXPECT_EQ(weights(own / "stage1/net0.h5"), weights(reused / "stage1/net0.h5")) << c.kind;
    std::ifstream metrics(reused / "metrics.csv");
    const std::string rows{std::istreambuf_iterator<char>(metrics), {}};
    EXPECT_EQ(rows.find(",stage1,"), std::string::npos) << c.kind << " trained after all";
  }
  EXPECT_EQ(inode(temp / "source0/stage1/net0.h5"), inode(temp / "reused0/stage1/net0.h5"));
  EXPECT_NE(inode(temp / "source1/stage1/net0.h5"), inode(temp / "reused1/stage1/net0.h5"));
}

TEST(ReuseStage1, TakesNothingThatDoesNotFit) {
  const test::TempDir temp;
  const RunConfig config = config_of("ensembler");
  train(config, temp / "source");
  const auto reused = [&](const RunConfig& c, const std::string& name, const fs::path& source_run) {
    const RunDir run(temp / name, to_text(c), {"test", "CPU", c.seed()});
    return reuse_stage1(c, temp / name, source_run);
  };
  EXPECT_EQ(reused(config_of("ensembler", {"seed=2"}), "seed", temp / "source"), 0);
  EXPECT_EQ(reused(config_of("none"), "none", temp / "source"), 0);
  EXPECT_EQ(reused(config, "missing", temp / "no-such-run"), 0);
  EXPECT_THROW(reuse_stage1(config, temp / "not-a-run", temp / "source"), Error);
  // One more net than the source run has, and one it has already.
  const RunConfig three = config_of("ensembler", {"ensemble.nets=3"});
  EXPECT_EQ(reused(three, "three", temp / "source"), 2);
  EXPECT_EQ(reused(three, "three", temp / "source"), 0) << "again";
  EXPECT_FALSE(fs::exists(temp / "three/stage1/net2.h5"));
  // A net that is not finished.
  Checkpoint half = read_checkpoint(temp / "source/stage1/net1.h5", "training");
  half.numbers["epochs_done"] = 2;
  write_checkpoint(temp / "source/stage1/net1.h5", half, true);
  EXPECT_EQ(reused(config, "half", temp / "source"), 1);
  EXPECT_FALSE(fs::exists(temp / "half/stage1/net1.h5"));
  fs::remove(temp / "source/DONE");
  EXPECT_EQ(reused(config, "unfinished", temp / "source"), 0);
}

}  // namespace
}  // namespace ens
