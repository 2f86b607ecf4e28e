// SPDX-License-Identifier: Apache-2.0
// The program `ensembler` as a user meets it: training, being killed, bad input, the whole demo.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"
#include "nn/data/image.h"
#include "nn/io/checkpoint.h"
#include "nn/io/safetensors.h"
#include "nn/models/torchvision.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

std::string program(const std::string& name) { return std::string(ENS_BIN_DIR) + "/" + name; }

class LabTest : public testing::Test {
 protected:
  test::TempDir temp_;
  void SetUp() override { folder_ = temp_.path(); }

  struct Outcome {
    int code;
    std::string out, err;
  };
  Outcome run(std::vector<std::string> arguments) {
    const std::string log = folder_ / "stderr.txt";
    fs::remove(log);
    Process p(arguments, {.capture = true, .err_file = log, .err_append = true});
    const int code = p.wait();
    std::stringstream err;
    err << std::ifstream(log).rdbuf();
    return {code, p.output(), err.str()};
  }
  // A training that takes a second or two and needs no data.
  std::vector<std::string> train(const fs::path& out, std::vector<std::string> more = {}) {
    std::vector<std::string> a{program("ensembler"), "train", "--out", out.string()};
    for (const char* s :
         {"data.name=shapes", "data.train_limit=640", "data.test_limit=128", "model.width=8",
          "ensemble.nets=3", "ensemble.selected=2", "ensemble.insecure_seeded_secrets=true",
          "dtype=float32", "stage1.epochs=3", "stage1.batch=64", "stage1.lr=0.05",
          "stage2.epochs=3", "stage2.batch=64", "stage2.lr=0.05"}) {
      a.insert(a.end(), {"--set", s});
    }
    for (std::string& s : more) a.insert(a.end(), {"--set", std::move(s)});
    return a;
  }

  fs::path folder_;
};

std::map<std::string, std::vector<float>> numbers(const fs::path& file, const std::string& kind) {
  std::map<std::string, std::vector<float>> all;
  for (const auto& [name, tensor] : read_checkpoint(file, kind).tensors) {
    all[name] = tensor.to_vector();
  }
  return all;
}

// What somebody meets who has a file of the wrong kind, and who has the right one.
TEST_F(LabTest, ImportsAndExportsNetworksOfOthers) {
  write_file_atomically(folder_ / "net.pt", "PK\3\4 a pickle", false);
  std::vector<std::string> import{
      program("ensembler"), "import",        folder_ / "net.pt", "--out",
      folder_ / "run",      "--set",         "data.name=shapes", "data.train_limit=40",
      "data.test_limit=20", "model.width=4", "dtype=float32"};
  const Outcome pickle = run(import);
  EXPECT_EQ(pickle.code, 1);
  EXPECT_NE(pickle.err.find("pickles, which are never opened"), std::string::npos) << pickle.err;
  EXPECT_FALSE(fs::exists(folder_ / "run"));

  ModelSpec spec;
  spec.width = 4;
  Rng rng(1);
  const auto net = build_cells(spec, 0, 6, rng);
  write_safetensors(folder_ / "net.safetensors", to_torchvision(spec, net->state(), ""), false);
  import[2] = folder_ / "net.safetensors";
  import.push_back("model.stem_kernel=7");
  const Outcome other = run(import);
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("model.stem_kernel=3"), std::string::npos) << other.err;
  import.back() = "model.stem_kernel=3";
  import.push_back("--tensorboard");
  const Outcome imported = run(import);
  ASSERT_EQ(imported.code, 0) << imported.err;
  EXPECT_NE(imported.out.find("accuracy"), std::string::npos) << imported.out;

  const fs::path out = folder_ / "out";
  const std::vector<std::string> words{program("ensembler"), "export", folder_ / "run", "--out",
                                       out};
  const Outcome bodies = run(words);
  ASSERT_EQ(bodies.code, 0) << bodies.err;
  EXPECT_EQ(bodies.out, (out / "body0.onnx").string() + "\n");
  std::vector<std::string> secrets = words;
  secrets.insert(secrets.end(), {"--secrets", "--format", "safetensors"});
  const Outcome all = run(secrets);
  ASSERT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(read_file(out / "net.safetensors"), read_file(folder_ / "net.safetensors"));
}

TEST_F(LabTest, KilledAndResumedTrainingEndsInTheSameWeights) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const Outcome whole = run(train(folder_ / "whole"));
  const auto duration = Clock::now() - start;
  ASSERT_EQ(whole.code, 0) << whole.err;

  // Kill the other one again and again, each time a little later; then let it get through.
  const fs::path out = folder_ / "killed";
  int kills = 0;
  for (int attempt = 0; attempt < 8; ++attempt) {
    Process p(train(out),
              {.capture = true, .err_file = folder_ / "killed.txt", .err_append = true});
    const auto deadline = Clock::now() + duration * (2 + attempt) / 10;
    while (p.running() && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (!p.running()) break;
    p.signal(SIGKILL);
    p.wait();
    if (fs::exists(out / "DONE")) break;  // it was about to say how it ended
    ++kills;
  }
  const Outcome last = run(train(out));
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_GE(kills, 2);
  ASSERT_TRUE(fs::exists(out / "DONE"));
  EXPECT_EQ(numbers(folder_ / "whole/edge.h5", "edge"), numbers(out / "edge.h5", "edge"));
  EXPECT_EQ(numbers(folder_ / "whole/cloud.h5", "cloud"), numbers(out / "cloud.h5", "cloud"));
  // The metrics, too, hold every epoch once.
  auto rows = [](const fs::path& run) {
    std::ifstream in(run / "metrics.csv");
    std::map<std::string, int> count;
    for (std::string line; std::getline(in, line);) {
      if (line.find(",loss,") != std::string::npos) {
        ++count[line.substr(line.find(',') + 1, line.rfind(',') - line.find(',') - 1)];
      }
    }
    return count;
  };
  EXPECT_EQ(rows(folder_ / "whole"), rows(out));
}

TEST_F(LabTest, ASweepSurvivesBadCellsAndBeingKilled) {
  std::ofstream(folder_ / "grid.txtpb") << R"(
      title: "A small grid"
      base {
        dtype: "float32"
        data { name: "shapes" train_limit: 640 test_limit: 128 }
        model { width: 8 }
        ensemble { nets: 2 selected: 1 insecure_seeded_secrets: true }
        stage1 { epochs: 2 batch: 64 lr: 0.05 }
        stage2 { epochs: 1 batch: 64 lr: 0.05 }
        attack {
          public_images: 300 scored_images: 16 reference_images: 300
          shadow { epochs: 1 } decoder { epochs: 1 channels: 16 blocks: 1 } seeds: 2
        }
      }
      attack: "oracle" attack: "shadow-adaptive"
      row { name: "none" set: "protection.kind=none" }
      row { name: "ensembler" axis { path: "model.head_cells" value: "1" value: "2" value: "9" } }
      row { name: "diverges" set: "stage1.lr=100" set: "stage1.optimizer=sgd" set: "ensemble.sigma=1000" }
    )";
  const fs::path out = folder_ / "grid";
  const std::vector<std::string> sweep{program("ensembler"), "sweep",
                                       (folder_ / "grid.txtpb").string(), "--out", out.string()};
  std::vector<std::string> dry = sweep;
  dry.push_back("--dry-run");
  const Outcome plan = run(dry);
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_NE(plan.out.find("4 of 5 cells to do"), std::string::npos) << plan.out;
  EXPECT_FALSE(fs::exists(out));

  // Killed as soon as the first cell is trained, then run to the end.
  {
    Process p(sweep, {.capture = true, .err_file = folder_ / "killed.txt", .err_append = true});
    while (p.running() && !fs::exists(out / "none/DONE")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    p.signal(SIGKILL);
    p.wait();
  }
  ASSERT_TRUE(fs::exists(out / "none/DONE"));
  const auto trained = fs::last_write_time(out / "none/DONE");
  const Outcome first = run(sweep);
  EXPECT_EQ(first.code, 1) << first.err;  // one cell diverges
  EXPECT_EQ(fs::last_write_time(out / "none/DONE"), trained);
  EXPECT_TRUE(fs::exists(out / "ensembler_head_cells=1/attack/oracle/result.json"));
  EXPECT_TRUE(fs::exists(out / "ensembler_head_cells=2/attack/shadow-adaptive/result.json"));
  EXPECT_TRUE(fs::exists(out / "report.html"));
  const auto state = nlohmann::json::parse(std::ifstream(out / "sweep.json"));
  std::map<std::string, std::string> status;
  for (const auto& cell : state.at("cells")) {
    status[cell.at("folder")] = cell.at("status");
    if (cell.at("status") != "done") {
      EXPECT_NE(cell.at("reason"), "") << cell;
    }
  }
  EXPECT_EQ(status, (std::map<std::string, std::string>{{"none", "done"},
                                                        {"ensembler_head_cells=1", "done"},
                                                        {"ensembler_head_cells=2", "done"},
                                                        {"ensembler_head_cells=9", "skipped"},
                                                        {"diverges", "failed"}}));

  // Nothing is done twice.
  const fs::path result = out / "none/attack/oracle/result.json";
  const auto written = fs::last_write_time(result);
  EXPECT_EQ(run(sweep).code, 1);
  EXPECT_EQ(fs::last_write_time(result), written);
}

TEST_F(LabTest, TasksOfASweepRunOneByOneAndStopOnSignals) {
  std::ofstream(folder_ / "grid.txtpb") << R"(
      base {
        dtype: "float32"
        data { name: "shapes" train_limit: 640 test_limit: 128 }
        model { width: 8 }
        protection { kind: "none" }
        stage1 { epochs: 2 batch: 64 lr: 0.05 }
        attack { public_images: 300 scored_images: 16 reference_images: 0 decoder { epochs: 1 channels: 16 blocks: 1 } }
      }
      attack: "oracle"
      axis { path: "seed" value: "1" value: "2" }
    )";
  const std::string e = program("ensembler"), out = (folder_ / "grid").string();
  std::vector<std::string> sweep{e,    "sweep", (folder_ / "grid.txtpb").string(), "--out", out,
                                 "-j", "1"};
  const auto listed = [&](const std::string& folder) {
    const Outcome o = run({e, "task", folder});
    EXPECT_EQ(o.code, 0) << o.err;
    std::map<std::string, std::string> states;
    std::istringstream lines(o.out);
    for (std::string line; std::getline(lines, line);) {
      states[line.substr(9)] = line.substr(0, line.find("  "));
    }
    return states;
  };

  // The sweep stops at a signal, says so and can be read.
  {
    std::vector<std::string> slow = sweep;
    slow.insert(slow.end(), {"--set", "stage1.epochs=2000"});
    Process p(slow, {.capture = true, .err_file = folder_ / "stopped.txt", .err_append = true});
    while (p.running() && !fs::exists(fs::path(out) / "none_seed=1/metrics.csv")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    p.signal(SIGINT);
    EXPECT_EQ(p.wait(), 1);  // killed by the signal it would be something else
    std::stringstream err;
    err << std::ifstream(folder_ / "stopped.txt").rdbuf();
    EXPECT_NE(err.str().find("goes on from what is saved"), std::string::npos) << err.str();
    const auto state = nlohmann::json::parse(std::ifstream(fs::path(out) / "sweep.json"));
    EXPECT_EQ(state.at("cells").at(0).at("status"), "unfinished");
    EXPECT_EQ(listed(out).at("none_seed=1/train"), "to do");
    fs::remove_all(out);
  }

  // Started twice at once: the second waits, and finds done what the first has done.
  {
    Process first(sweep, {.capture = true, .err_file = folder_ / "first.txt"});
    while (first.running() && !fs::exists(fs::path(out) / "none_seed=1/metrics.csv")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    const Outcome second = run(sweep);
    EXPECT_EQ(first.wait(), 0);
    EXPECT_EQ(second.code, 0) << second.err;
    EXPECT_NE(second.err.find("runs this sweep; waiting"), std::string::npos) << second.err;
    EXPECT_NE(second.err.find("2 of 2 cells are done already"), std::string::npos) << second.err;
  }
  fs::remove_all(fs::path(out) / "none_seed=2");
  EXPECT_EQ(listed(out),
            (std::map<std::string, std::string>{{"none_seed=1/train", "done"},
                                                {"none_seed=1/attack/oracle", "done"},
                                                {"none_seed=2/train", "to do"},
                                                {"none_seed=2/attack/oracle", "waits"}}));
  const Outcome early = run({e, "task", out, "none_seed=2/attack/oracle"});
  EXPECT_EQ(early.code, 2);
  EXPECT_NE(early.err.find("needs 'none_seed=2/train'"), std::string::npos) << early.err;
  EXPECT_EQ(run({e, "task", out, "none_seed=2/train"}).code, 0);
  const auto status = [&] {
    const auto state = nlohmann::json::parse(std::ifstream(fs::path(out) / "sweep.json"));
    return state.at("cells").at(1).at("status").get<std::string>();
  };
  EXPECT_EQ(status(), "unfinished");
  EXPECT_EQ(run({e, "task", out, "none_seed=2/attack/oracle"}).code, 0);
  EXPECT_EQ(status(), "done");
  const Outcome again = run({e, "task", out, "none_seed=2/train"});
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.err.find("done already"), std::string::npos) << again.err;
  const Outcome wrong = run({e, "task", out, "none_seed=2/trian"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("none_seed=2/train"), std::string::npos) << wrong.err;

  // A run by itself; a sweep of before.
  const std::string one = out + "/none_seed=1";
  EXPECT_EQ(listed(one).at("train"), "done");
  std::vector<std::string> settings;
  for (const char* s :
       {"attack.scored_images=8", "attack.public_images=300", "attack.reference_images=0",
        "attack.decoder.epochs=1", "attack.decoder.channels=16"})
    settings.insert(settings.end(), {"--set", s});
  const auto with_settings = [&](std::vector<std::string> command) {
    command.insert(command.end(), settings.begin(), settings.end());
    return run(command);
  };
  EXPECT_EQ(with_settings({e, "task", one, "attack/oracle"}).code, 0);
  const auto result =
      nlohmann::json::parse(std::ifstream(out + "/none_seed=1/attack/oracle/result.json"));
  EXPECT_NE(result.at("settings").get<std::string>().find("scored_images: 8"), std::string::npos);

  // Everything that was reconstructed is kept on request, and for its owner alone.
  const fs::path images = one + "/attack/oracle/reconstructions.h5";
  EXPECT_FALSE(fs::exists(images));
  settings.insert(settings.end(), {"--set", "attack.keep_images=true"});
  for (const char* expected : {"1 attack", "done already"}) {
    const Outcome kept = with_settings({e, "attack", one, "-a", "oracle"});
    EXPECT_EQ(kept.code, 0) << kept.err;
    EXPECT_NE(kept.err.find(expected), std::string::npos) << kept.err;
  }
  EXPECT_EQ(fs::status(images).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const Checkpoint kept = read_checkpoint(images, "reconstructions");
  const Tensor &originals = kept.tensor("originals"), &guesses = kept.tensor("seed_1");
  EXPECT_EQ(originals.shape(), Shape({8, 3, 32, 32}));
  EXPECT_EQ(kept.tensor("image").data<int32_t>()[7], 7);
  std::istringstream scores(read_file(one + "/attack/oracle/scores.csv"));
  std::string row;
  std::getline(scores, row);
  ASSERT_TRUE(row.starts_with("image,label,seed,ssim,psnr,mse,")) << row;
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(std::getline(scores, row));
    const std::vector<std::string> cells = split_text(row, ',');
    double squares = 0;
    constexpr int kValues = 3 * 32 * 32;
    for (int k = 0; k < kValues; ++k) {
      const double guess = std::clamp(guesses.data<float>()[i * kValues + k], 0.0f, 1.0f);
      squares += std::pow(guess - originals.data<float>()[i * kValues + k], 2);
    }
    EXPECT_EQ(cells.at(0), std::to_string(i));
    EXPECT_EQ(cells.at(1), std::to_string(kept.tensor("label").data<int32_t>()[i]));
    EXPECT_NEAR(std::stod(cells.at(5)), squares / kValues, 1e-7);
  }
  EXPECT_FALSE(std::getline(scores, row));
  const Outcome same = run({e, "compare", one, one});
  EXPECT_NE(same.out.find("+0.000 [+0.000, +0.000]        1"), std::string::npos) << same.out;
  // The figures of the data set `shapes` are drawn by seed.
  const Outcome others = run({e, "compare", one, out + "/none_seed=2"});
  EXPECT_NE(others.err.find("the scored images differ"), std::string::npos) << others.err;
  settings.resize(settings.size() - 2);
  EXPECT_EQ(with_settings({e, "attack", one, "-a", "oracle", "--rerun"}).code, 0);
  EXPECT_FALSE(fs::exists(images));  // not those of an earlier result

  fs::remove(fs::path(out) / "sweep.txtpb");
  const Outcome old = run({e, "task", out});
  EXPECT_EQ(old.code, 2);
  EXPECT_NE(old.err.find("ensembler sweep"), std::string::npos) << old.err;
}

TEST_F(LabTest, BadInputIsOneClearLine) {
  std::ofstream(folder_ / "bad.txtpb") << "seed: 1\nstage1 {\n  epoch: 3\n}\n";
  std::ofstream(folder_ / "not-a-picture.png") << "hello";
  struct Case {
    std::vector<std::string> arguments;
    int code;
    std::vector<std::string> expected;  // parts of the message
  };
  const std::string e = program("ensembler"), out = (folder_ / "x").string();
  const std::vector<Case> cases = {
      {{e}, 2, {"subcommand"}},
      {{e, "train", "--no-such-flag"}, 2, {"no-such-flag"}},
      {{e, "train", "-o", out, "-c", (folder_ / "bad.txtpb").string()},
       2,
       {"bad.txtpb:3:", "epoch"}},
      {{e, "train", "-o", out, "-c", "no-such-config"}, 2, {"no-such-config"}},
      {{e, "train", "-o", out, "--set", "stage1.epoch=3"}, 2, {"epoch"}},
      {{e, "train", "-o", out, "--set", "ensemble.selected=5", "--set", "ensemble.nets=4"},
       2,
       {"selected"}},
      {{e, "train", "-o", out, "--set", "model.head_cells=4", "--set", "model.tail_cells=2",
        "--set", "data.name=shapes", "--set", "data.train_limit=64", "--set", "data.test_limit=64",
        "--set", "device=cpu"},
       2,
       {"head", "tail", "at most"}},
      {{e, "info", "--set", "model.head_cells=4", "--set", "model.tail_cells=2"}, 2, {"at most"}},
      {{e, "train", "-o", out, "--set", "device=cpu", "--set", "data.name=cifar10", "--data",
        (folder_ / "none").string()},
       1,
       {"cifar10", "data get cifar10"}},
      {{e, "attack", out + "-missing"}, 2, {"not a finished run"}},
      {{e, "calibrate", out + "-missing"}, 2, {"not a finished run"}},
      {{e, "calibrate", out, "--images", "0"}, 2, {"--images"}},
      {{e, "report", out + "-missing", "-o", out + ".html"}, -1, {"missing"}},
      {{program("ensembler-cloud"), "--bundle", out + ".h5"}, 1, {".h5"}},
      {{program("ensembler-edge"), "--bundle", out + ".h5", "x.png"}, 1, {".h5"}},
      {{program("ensembler-edge")}, 2, {"ensembler-edge"}},
  };
  for (const Case& c : cases) {
    std::string line;
    for (const std::string& a : c.arguments) line += a + " ";
    const Outcome r = run(c.arguments);
    if (c.code >= 0) {
      EXPECT_EQ(r.code, c.code) << line << "\n" << r.err;
    } else {
      EXPECT_NE(r.code, 0) << line;
    }
    for (const std::string& part : c.expected) {
      EXPECT_NE(r.err.find(part), std::string::npos) << line << "\n" << r.err;
    }
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << line << "\n" << r.err;
  }
}

TEST_F(LabTest, AFolderInUseAndAnotherConfigurationAreRefused) {
  const fs::path out = folder_ / "run";
  Process first(train(out, {"stage1.epochs=200"}),
                {.capture = true, .err_file = folder_ / "first.txt", .err_append = true});
  for (int i = 0; i < 1000 && !fs::exists(out / "info.json"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const Outcome second = run(train(out, {"stage1.epochs=200"}));
  EXPECT_NE(second.code, 0);
  EXPECT_NE(second.err.find("process"), std::string::npos) << second.err;
  first.signal(SIGKILL);
  first.wait();
  const Outcome third = run(train(out));
  EXPECT_EQ(third.code, 2) << third.err;
  EXPECT_NE(third.err.find("epochs"), std::string::npos) << third.err;
}

TEST_F(LabTest, CalibrationWritesRangesOrNothing) {
  const fs::path run_folder = folder_ / "run", cloud = run_folder / "cloud.h5";
  ASSERT_EQ(run(train(run_folder)).code, 0);
  const Checkpoint before = read_checkpoint(cloud, "cloud");
  const auto calibrate = [&](const char* most_loss) {
    return run({program("ensembler"), "calibrate", run_folder.string(), "--images", "96", "--test",
                "0", "--device", "cpu", "--most-loss", most_loss});
  };
  // Float8 cannot be so much better.
  const Outcome refused = calibrate("-101");
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_NE(refused.err.find("points of accuracy, more than -101"), std::string::npos)
      << refused.err;
  EXPECT_NE(refused.err.find(cloud.string()), std::string::npos) << refused.err;
  EXPECT_EQ(read_checkpoint(cloud, "cloud").texts, before.texts);

  const Outcome done = calibrate("100");
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out, refused.out);
  for (const char* part : {"13 of 19 layers in float8", "the ranges of 96 training images",
                           "float32 ", " of 128 test images\nfloat8 ", " predictions change: "}) {
    EXPECT_NE(done.out.find(part), std::string::npos) << part << "\n" << done.out;
  }
  // Ranges for every net and nothing else; edges have nothing to do with it.
  Checkpoint after = read_checkpoint(cloud, "cloud");
  for (const char* ranges : {"ranges/0000", "ranges/0001", "ranges/0002"}) {
    EXPECT_EQ(std::ranges::count(after.text(ranges), ','), 18) << ranges;
    after.texts.erase(ranges);
  }
  EXPECT_EQ(after.texts, before.texts);
  EXPECT_EQ(after.numbers, before.numbers);
  EXPECT_EQ(digest(after.tensors), digest(before.tensors));

  const Outcome serve = run({program("ensembler-cloud"), "--bundle", cloud.string(), "--set",
                             "device=cpu", "--set", "dtype=float8"});
  EXPECT_EQ(serve.code, 2) << serve.err;
  EXPECT_NE(serve.err.find("compute capability 8.9 or newer"), std::string::npos) << serve.err;
}

// Where /proc/self/exe is not the program but what loads it.
TEST_F(LabTest, RunsUnderTheDynamicLinker) {
  const std::string linker = "/lib64/ld-linux-x86-64.so.2";
  if (!fs::exists(linker)) GTEST_SKIP() << "no " << linker;
  const Outcome linked =
      run({"/usr/bin/env", "-u", "GOMP_SPINCOUNT", linker, program("ensembler"), "--version"});
  EXPECT_EQ(linked.code, 0) << linked.err;
}

TEST_F(LabTest, LostOutputIsAFailure) {
  const std::string e = program("ensembler");
  for (const std::string to : {">/dev/full", ">&-"}) {
    const Outcome lost = run({"/bin/sh", "-c", e + " train --print-config " + to});
    EXPECT_EQ(lost.code, 1) << to;
    EXPECT_NE(lost.err.find("cannot write to standard output"), std::string::npos) << lost.err;
  }
}

// Labels are places in a sorted list: "yak" for "bee" would exchange the two classes.
TEST_F(LabTest, ARenamedClassIsRefusedWithBothLists) {
  const fs::path set = folder_ / "set", trained = folder_ / "run";
  for (const std::string name : {"bee", "cow"}) {
    for (const std::string part : {"train", "test"}) {
      fs::create_directories(set / part / name);
      for (int i = 0; i < 8; ++i) {
        write_png(set / part / name / (std::to_string(i) + ".png"),
                  Tensor::full({3, 16, 24}, name == "bee" ? 0.2f : 0.8f));
      }
    }
  }
  const std::vector<std::string> settings{"data.name=folder:" + set.string(),
                                          "data.image_size=16",
                                          "data.train_limit=0",
                                          "stage1.batch=8",
                                          "stage2.batch=8",
                                          "stage1.epochs=1",
                                          "stage2.epochs=1"};
  ASSERT_EQ(run(train(trained, settings)).code, 0);
  const Outcome fits = run({program("ensembler"), "calibrate", trained.string(), "--device", "cpu",
                            "--most-loss", "100"});
  EXPECT_EQ(fits.code, 0) << fits.err;
  for (const char* part : {"train", "test"}) fs::rename(set / part / "bee", set / part / "yak");
  const auto has_both = [](const std::string& text) {
    return text.find("(cow, yak)") != std::string::npos &&
           text.find("(bee, cow)") != std::string::npos;
  };
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"calibrate", trained.string(), "--device", "cpu"},
        {"attack", "-a", "oracle", trained.string()}}) {
    std::vector<std::string> a{program("ensembler")};
    a.insert(a.end(), command.begin(), command.end());
    const Outcome refused = run(a);
    EXPECT_NE(refused.code, 0);
    EXPECT_TRUE(has_both(refused.err)) << refused.err;
  }
  fs::remove(trained / "DONE");  // as if it had been interrupted
  const Outcome resumed = run(train(trained, settings));
  EXPECT_EQ(resumed.code, 1);
  EXPECT_TRUE(has_both(resumed.err)) << resumed.err;
}

TEST_F(LabTest, AFullDiskLosesNothing) {
  const fs::path out = folder_ / "run";
  // Files may not grow beyond 100 kB: the first checkpoint fails.
  const Outcome full = run({"/bin/sh", "-c", [&] {
                              std::string line = "ulimit -f 100; trap '' XFSZ; exec";
                              for (const std::string& a : train(out)) line += " '" + a + "'";
                              return line;
                            }()});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_NE(full.err.find(".h5"), std::string::npos) << full.err;
  EXPECT_FALSE(fs::exists(out / "DONE"));
  const Outcome after = run(train(out));
  EXPECT_EQ(after.code, 0) << after.err;
  EXPECT_TRUE(fs::exists(out / "DONE"));
}

TEST_F(LabTest, TheDemoTellsTheWholeStory) {
  std::vector<std::string> a{program("ensembler"),
                             "demo",
                             "--config",
                             std::string(ENS_SOURCE_DIR) + "/configs/demo.txtpb",
                             "--offline",
                             "--data",
                             (folder_ / "no-data").string(),
                             "--out",
                             (folder_ / "demo").string()};
  for (const char* s :
       {"data.train_limit=640", "data.test_limit=128", "model.width=8", "ensemble.nets=3",
        "stage1.epochs=1", "stage2.epochs=1", "attack.public_images=400", "attack.scored_images=64",
        "attack.shadow.epochs=1", "attack.decoder.epochs=1", "attack.decoder.channels=16",
        "attack.decoder.blocks=1", "attack.alignment.steps=20", "attack.reference_images=1000"}) {
    a.insert(a.end(), {"--set", s});
  }
  const Outcome r = run(a);
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("falling back to the synthetic 'shapes'"), std::string::npos) << r.err;
  EXPECT_NE(r.out.find("classified over TCP"), std::string::npos) << r.out;
  for (const char* file :
       {"report.html", "report.csv", "none/DONE", "ensembler/DONE", "ensembler/serve.json",
        "ensembler/attack/shadow-n1/result.json",
        "ensembler/attack/shadow-adaptive/reconstruction.png",
        "ensembler/attack/oracle/original.png", "none/attack/oracle/result.json"}) {
    EXPECT_TRUE(fs::exists(folder_ / "demo/shapes" / file)) << file;
  }
  // What was attacked is what went over the wire.
  const auto result = nlohmann::json::parse(
      std::ifstream(folder_ / "demo/shapes/ensembler/attack/oracle/result.json"));
  EXPECT_EQ(result.at("observed"), "recorded on the wire");
  EXPECT_EQ(result.at("scored_images"), 64);
  const double recognised = result.at("reference").at("recognised").at("mean");
  EXPECT_GE(recognised, 0);
  EXPECT_LE(recognised, 1);
}

}  // namespace
}  // namespace ens
