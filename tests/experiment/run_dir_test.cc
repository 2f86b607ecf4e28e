// SPDX-License-Identifier: Apache-2.0
// Run folders: refused when foreign, different or in use; metrics survive kills and resumes.
#include "experiment/run_dir.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "proto/config.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] =
    "seed: 1\nstage1 {\n  epochs: 6\n  lr: 0.3\n}\nstage2 {\n  epochs: 4\n}\n";

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void append(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::app) << text;
}

class RunDirTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  void SetUp() override {
    base_ = temp_.path();
    folder_ = base_ / "runs" / "a";
  }

  RunDir open_run(const std::string& config = kConfig) {
    return RunDir(folder_, config, {"ensembler train --out a", "CPU, 2 threads", 1});
  }
  Error refused(const std::string& config = kConfig) {
    try {
      open_run(config);
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "nothing thrown";
    return Error(Error::Kind::kFailure, "");
  }
  std::vector<Metric> rows() {
    const RunView view = read_run(folder_);
    EXPECT_EQ(view.damage, "");
    return view.metrics;
  }

  fs::path base_, folder_;
};

bool contains(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

TEST_F(RunDirTest, AFreshRun) {
  {
    RunDir run = open_run();
    EXPECT_EQ(run.folder(), folder_);
    struct stat info {};
    ASSERT_EQ(stat(folder_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    EXPECT_FALSE(run.done());
    EXPECT_EQ(run.path("stage1/net0.h5"), folder_ / "stage1" / "net0.h5");
    EXPECT_TRUE(fs::is_directory(folder_ / "stage1"));
    EXPECT_FALSE(read_run(folder_).done);
    run.mark_done();
    EXPECT_TRUE(run.done());
  }
  const RunView view = read_run(folder_);
  EXPECT_EQ(view.damage, "");
  EXPECT_TRUE(view.done);
  EXPECT_EQ(view.config_text, kConfig);
  const auto info = nlohmann::json::parse(slurp(folder_ / "info.json"));
  EXPECT_EQ(info["seed"], 1);
  EXPECT_EQ(info["device"], "CPU, 2 threads");
  EXPECT_EQ(info["command"], "ensembler train --out a");
  for (const char* key : {"version", "revision", "processor", "started"}) {
    EXPECT_FALSE(info[key].get<std::string>().empty()) << key;
  }
}

TEST_F(RunDirTest, PathsStayInside) {
  RunDir run = open_run();
  for (const char* bad : {"", ".", "..", "../b", "/etc/x", "a/../../b"}) {
    EXPECT_THROW(run.path(bad), Error) << bad;
  }
}

TEST_F(RunDirTest, ResumingKeepsTheFirstInfo) {
  { open_run(); }
  auto first = nlohmann::json::parse(slurp(folder_ / "info.json"));
  testing::internal::CaptureStderr();
  { RunDir(folder_, kConfig, {"ensembler resume", "CPU", 1}); }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("begun on 'CPU, 2 threads', goes on with 'CPU'"), std::string::npos) << said;
  auto second = nlohmann::json::parse(slurp(folder_ / "info.json"));
  ASSERT_EQ(second["resumed"].size(), 1u);
  EXPECT_EQ(second["resumed"][0]["command"], "ensembler resume");
  second.erase("resumed");
  first.erase("resumed");  // an empty list
  EXPECT_EQ(first, second);
}

TEST_F(RunDirTest, ARunOfANewerVersionIsLeftAsItIs) {
  { open_run(); }
  const std::string newer = "{\"format\": 2, \"started\": {\"year\": 2030}}\n";
  std::ofstream(folder_ / "info.json", std::ios::trunc) << newer;
  EXPECT_TRUE(contains(refused(), "written by a newer version"));
  EXPECT_EQ(slurp(folder_ / "info.json"), newer);
  const RunView view = read_run(folder_);
  EXPECT_FALSE(view.info);
  EXPECT_NE(view.damage.find("written by a newer version"), std::string::npos) << view.damage;
}

TEST_F(RunDirTest, AnotherConfigurationIsRefusedByField) {
  { open_run(); }
  struct Case {
    const char* config;
    const char* expected;
  };
  for (const Case& c : {
           Case{"seed: 2\nstage1 {\n  epochs: 6\n  lr: 0.3\n}\nstage2 {\n  epochs: 4\n}\n",
                "seed is 2, in the folder it is 1"},
           Case{"seed: 1\nstage1 {\n  epochs: 6\n  lr: 0.3\n}\nstage2 {\n  epochs: 5\n}\n",
                "stage2.epochs is 5, in the folder it is 4"},
           Case{"seed: 1\nstage1 {\n  epochs: 6\n}\nstage2 {\n  epochs: 4\n}\n",
                "stage1.lr is not set, in the folder it is 0.3"},
           Case{"seed: 1\nstage1 {\n  epochs: 6\n  batch: 8\n  lr: 0.3\n}\nstage2 {\n  epochs: "
                "4\n}\n",
                "stage1.batch is 8, in the folder it is not set"},
           Case{"seed: 1\nstage1 {\n  epochs: 6\n  lr: 0.3\n}\nstage2 {\n  epochs: 4\n}\ndtype: "
                "\"x\"\n",
                "dtype is \"x\", in the folder it is not set"},
       }) {
    const Error error = refused(c.config);
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    EXPECT_TRUE(contains(error, c.expected)) << error.what();
    EXPECT_TRUE(contains(error, folder_.string())) << error.what();
    EXPECT_TRUE(contains(error, "another folder")) << error.what();
  }
  EXPECT_EQ(slurp(folder_ / "config.txtpb"), kConfig);
  open_run(
      "# a comment\nseed: 1\n\nstage1 {\n    epochs: 6\n    lr: 0.3\n}\nstage2 {\n epochs: 4\n}\n");
}

TEST_F(RunDirTest, ASettingThatOneOfThemLacksHasItsDefault) {
  { open_run(); }
  open_run(std::string(kConfig) + "protection {\n  fresh_noise: false\n}\n");
  EXPECT_TRUE(contains(refused(std::string(kConfig) + "protection {\n  fresh_noise: true\n}\n"),
                       "protection.fresh_noise is true, in the folder it is not set"));
  open_run("stage1 {\n  epochs: 6\n  lr: 0.3\n}\nstage2 {\n  epochs: 4\n}\n");  // seed: 1
}

// Of a program with fewer settings; today's configuration has them all.
TEST_F(RunDirTest, ARunOfAnOlderVersionGoesOn) {
  const std::string old = slurp(fs::path(ENS_SOURCE_DIR) / "tests/experiment/data/old_run.txtpb");
  fs::create_directories(folder_);
  append(folder_ / "config.txtpb", old);
  RunConfig config = read_run_config(folder_);
  EXPECT_EQ(config.protection().dr().dropout(), 0.3);
  config.clear_attack();
  config.mutable_data()->clear_root();
  open_run(to_text(config));
  EXPECT_EQ(slurp(folder_ / "config.txtpb"), old);
  config.mutable_protection()->mutable_shredder()->set_noises(3);
  EXPECT_TRUE(contains(refused(to_text(config)), "protection.shredder.noises is 3"));
}

TEST_F(RunDirTest, SettingsOfANewerVersionAreNamedAsSuch) {
  struct Case {
    const char* config;
    const char* expected;
  };
  for (const Case& c : {Case{"protection {\n  xyz {\n    share: 0.5\n  }\n}\n",
                             "written by a newer version (setting 'protection.xyz.share')"},
                        Case{"protection {\n  kind: \"xyz\"\n}\n",
                             "written by a newer version (protection.kind 'xyz')"}}) {
    fs::create_directories(folder_);
    const std::string text = kConfig + std::string(c.config);
    append(folder_ / "config.txtpb", text);
    EXPECT_TRUE(contains(refused(), c.expected)) << refused().what();
    try {
      read_run_config(folder_);
      ADD_FAILURE() << "nothing thrown";
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error, c.expected)) << error.what();
      EXPECT_TRUE(contains(error, "config.txtpb")) << error.what();
    }
    EXPECT_EQ(slurp(folder_ / "config.txtpb"), text);
    fs::remove_all(folder_);
  }
}

TEST_F(RunDirTest, AForeignFolderIsLeftAlone) {
  fs::create_directories(folder_);
  fs::permissions(folder_, fs::perms(0755));
  append(folder_ / "holiday.tmp.jpg", "x");
  const Error error = refused();
  EXPECT_EQ(error.kind(), Error::Kind::kUsage);
  EXPECT_TRUE(contains(error, "not a run")) << error.what();
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms(0755));
  fs::remove_all(folder_);
  append(folder_, "a file");
  EXPECT_TRUE(contains(refused(), "not a folder"));
}

TEST_F(RunDirTest, AnEmptyFolderBecomesARun) {
  fs::create_directories(folder_);
  open_run();
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
}

TEST_F(RunDirTest, InUseByAnotherProcess) {
  int ready[2], stop[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(stop), 0);
  const pid_t child = fork();
  if (child == 0) {
    RunDir run = open_run();
    char c = 'r';
    if (write(ready[1], &c, 1) != 1) _exit(1);
    if (read(stop[0], &c, 1) != 1) _exit(1);
    _exit(0);  // without a destructor, like a killed process
  }
  char c = 0;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  const Error error = refused();
  EXPECT_EQ(error.kind(), Error::Kind::kUsage);
  EXPECT_TRUE(contains(error, "process " + std::to_string(child))) << error.what();
  EXPECT_EQ(read_run(folder_).damage, "") << "readers need no lock";
  ASSERT_EQ(write(stop[1], &c, 1), 1);
  int status = 0;
  waitpid(child, &status, 0);
  open_run();
  for (int fd : {ready[0], ready[1], stop[0], stop[1]}) close(fd);
}

TEST_F(RunDirTest, InUseByThisProcess) {
  RunDir run = open_run();
  EXPECT_TRUE(contains(refused(), "process " + std::to_string(getpid())));
}

TEST_F(RunDirTest, MetricsRoundTrip) {
  RunDir run = open_run();
  const std::vector<Metric> written = {{"stage1", 0, 0, 100, "loss", 1.0 / 3},
                                       {"stage2", -1, 7, 1LL << 40, "accuracy", 1e-300},
                                       {"stage2", -1, 8, 0, "similarity", INFINITY}};
  for (const Metric& m : written) run.add_metric(m);
  run.add_metric({"stage2", -1, 9, 0, "similarity", NAN});
  const std::vector<Metric> read = rows();
  ASSERT_EQ(read.size(), 4u);
  for (size_t i = 0; i < written.size(); ++i) {
    EXPECT_EQ(read[i].stage, written[i].stage);
    EXPECT_EQ(read[i].net, written[i].net);
    EXPECT_EQ(read[i].epoch, written[i].epoch);
    EXPECT_EQ(read[i].step, written[i].step);
    EXPECT_EQ(read[i].name, written[i].name);
    EXPECT_EQ(read[i].value, written[i].value);
  }
  EXPECT_TRUE(std::isnan(read[3].value));
  EXPECT_THROW(run.add_metric({"stage,1", 0, 0, 0, "loss", 1}), Error);
  EXPECT_THROW(run.add_metric({"stage1", 0, 0, 0, "lo\nss", 1}), Error);
  EXPECT_EQ(rows().size(), 4u);
  EXPECT_EQ(slurp(folder_ / "metrics.csv").substr(0, 37), "time,stage,net,epoch,step,name,value\n");
}

TEST_F(RunDirTest, ForgettingDropsOnlyWhatIsComputedAgain) {
  RunDir run = open_run();
  for (const char* stage : {"stage1", "stage2"}) {
    for (int net : {0, 1}) {
      for (int epoch = 0; epoch < 4; ++epoch) run.add_metric({stage, net, epoch, 0, "loss", 1});
    }
  }
  run.forget_metrics("stage1", 1, 2);
  std::vector<Metric> left = rows();
  EXPECT_EQ(left.size(), 14u);
  for (const Metric& m : left) {
    EXPECT_FALSE(m.stage == "stage1" && m.net == 1 && m.epoch >= 2);
  }
  run.add_metric({"stage1", 1, 2, 0, "loss", 2});  // appended to the rewritten file
  left = rows();
  ASSERT_EQ(left.size(), 15u);
  EXPECT_EQ(left.back().value, 2);
}

TEST_F(RunDirTest, ATornLastLineIsDropped) {
  {
    RunDir run = open_run();
    run.add_metric({"stage1", 0, 0, 0, "loss", 1});
  }
  append(folder_ / "metrics.csv", "2024-01-01T00:00:00Z,stage1,0,1,0,lo");
  EXPECT_EQ(rows().size(), 1u);
  {
    RunDir run = open_run();
    run.add_metric({"stage1", 0, 1, 0, "loss", 3});
  }
  const std::vector<Metric> read = rows();
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[1].value, 3);
}

TEST_F(RunDirTest, ATornHeaderIsMended) {
  { open_run(); }
  std::ofstream(folder_ / "metrics.csv", std::ios::trunc) << "time,sta";
  EXPECT_EQ(rows().size(), 0u);
  RunDir run = open_run();
  run.add_metric({"stage1", 0, 1, 0, "loss", 3});
  EXPECT_EQ(rows().size(), 1u);
}

TEST_F(RunDirTest, LeftoversOfAKilledProcessAreRemoved) {
  {
    RunDir run = open_run();
    append(run.path("stage1/net0.h5.AbCdEf.tmp"), "half");
    append(run.path("stage1/net0.h5"), "whole");
  }
  open_run();
  EXPECT_FALSE(fs::exists(folder_ / "stage1/net0.h5.AbCdEf.tmp"));
  EXPECT_TRUE(fs::exists(folder_ / "stage1/net0.h5"));
}

// Killed at any moment and started again: no row is lost before the checkpoint or there twice.
TEST_F(RunDirTest, KilledWriterLeavesAReadableRun) {
  for (int round = 0; round < 5; ++round) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      RunDir run = open_run();
      const int64_t first = static_cast<int64_t>(read_run(folder_).metrics.size()) / 2;
      run.forget_metrics("stage1", 0, first);
      for (int64_t epoch = first;; ++epoch) {
        run.add_metric({"stage1", 0, epoch, 0, "loss", 1});
        run.add_metric({"stage1", 0, epoch, 0, "accuracy", 1});
        if (epoch == first + 3 && write(ready[1], "r", 1) != 1) _exit(1);
      }
    }
    char c = 0;
    ASSERT_EQ(read(ready[0], &c, 1), 1);
    usleep(static_cast<useconds_t>(700 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(ready[0]);
    close(ready[1]);
    std::set<std::pair<int64_t, std::string>> seen;
    int64_t last = -1;
    for (const Metric& m : rows()) {
      EXPECT_TRUE(seen.insert({m.epoch, m.name}).second) << "epoch " << m.epoch << " twice";
      EXPECT_LE(m.epoch, last + 1);
      last = m.epoch;
    }
    EXPECT_GE(last, 3 * (round + 1));
  }
}

TEST_F(RunDirTest, FullDiskLeavesWholeRows) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    int refusals = 0;
    try {
      RunDir run = open_run();
      const rlimit limit{600, 600};
      setrlimit(RLIMIT_FSIZE, &limit);
      for (int i = 0; i < 50; ++i) {
        try {
          run.add_metric({"stage1", 0, i, 0, "loss", 1});
        } catch (const Error& error) {
          if (contains(error, "metrics.csv") && contains(error, "disk space")) ++refusals;
        }
      }
    } catch (...) {
      _exit(1);
    }
    _exit(refusals > 0 ? 0 : 2);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  const std::string csv = slurp(folder_ / "metrics.csv");
  EXPECT_EQ(csv.back(), '\n') << "a torn row was left";
  EXPECT_GT(rows().size(), 3u);
}

TEST_F(RunDirTest, ThreadsMayWriteTogether) {
  RunDir run = open_run();
  std::vector<std::thread> threads;
  for (int net = 0; net < 4; ++net) {
    threads.emplace_back([&, net] {
      for (int epoch = 0; epoch < 10; ++epoch) {
        run.add_metric({"stage1", net, epoch, 0, "loss", 1});
        if (epoch == 5) run.forget_metrics("stage1", net, 5);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(rows().size(), 36u);
}

TEST_F(RunDirTest, DamageIsSaidAndNeverThrown) {
  EXPECT_FALSE(is_run(folder_));
  EXPECT_NE(read_run(folder_).damage.find("not a run"), std::string::npos);
  {
    RunDir run = open_run();
    run.add_metric({"stage1", 0, 0, 0, "loss", 1});
  }
  EXPECT_TRUE(is_run(folder_));
  const std::string info = slurp(folder_ / "info.json");
  std::ofstream(folder_ / "info.json", std::ios::trunc) << "{";
  EXPECT_NE(read_run(folder_).damage.find("info.json"), std::string::npos);
  std::ofstream(folder_ / "info.json", std::ios::trunc) << info;
  append(folder_ / "metrics.csv", "garbage\n");
  const RunView view = read_run(folder_);
  EXPECT_NE(view.damage.find("metrics.csv: line 3"), std::string::npos) << view.damage;
  EXPECT_EQ(view.metrics.size(), 1u);
  std::ofstream(folder_ / "metrics.csv", std::ios::trunc) << "no table\n";
  EXPECT_NE(read_run(folder_).damage.find("metrics.csv"), std::string::npos);
  EXPECT_TRUE(contains(refused(), "not a table"));
}

TEST_F(RunDirTest, ADoneRunStaysDone) {
  {
    RunDir run = open_run();
    run.mark_done();
  }
  const std::string info = slurp(folder_ / "info.json");
  EXPECT_TRUE(open_run().done());
  EXPECT_EQ(slurp(folder_ / "info.json"), info) << "nothing was resumed";
}

}  // namespace
}  // namespace ens
