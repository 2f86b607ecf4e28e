// SPDX-License-Identifier: Apache-2.0
// Event files, read back by a script that shares nothing with the writer.
#include "experiment/tensorboard.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>
#include <vector>

#include "experiment/run_dir.h"
#include "nn/data/image.h"
#include "tests/support/peers.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReader = "tests/experiment/read_events.py";

TEST(Crc32c, OfRfc3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(EventFile, ScalarsAndImagesReadBack) {
  const TempDir dir;
  { EventFile replaced(dir / "events"); }
  EventFile events(dir / "events");
  events.add_scalar("stage1/net0/loss", 0, 2.5);
  events.add_scalar("stage1/net0/loss", 5000000000, -1e-7);
  const auto png = encode_png(Tensor::full({3, 5, 7}, 0.5f));
  events.add_image("oracle/original", 3, std::string(png.begin(), png.end()));
  ENS_PYTHON_OR_SKIP(outcome, kReader, {(dir / "events").string()});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_EQ(outcome.out,
            "stage1/net0/loss 0 2.5\nstage1/net0/loss 5000000000 -1e-07\noracle/original 3 7x5\n");
}

TEST(EventFile, ThreadsDoNotTearRecords) {
  const TempDir dir;
  EventFile events(dir.path());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&events, t] {
      for (int i = 0; i < 200; ++i) events.add_scalar(std::string(1 + t * 40, 'x'), i, t);
    });
  }
  for (std::thread& thread : threads) thread.join();
  ENS_PYTHON_OR_SKIP(outcome, kReader, {dir.path().string()});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_EQ(std::ranges::count(outcome.out, '\n'), 800);
}

TEST(EventFile, IsForItsOwnerOnlyAndSaysWhenItCannotBeWritten) {
  const TempDir dir;
  const EventFile events(dir / "events");
  for (const auto& entry : fs::directory_iterator(dir / "events")) {
    struct stat info {};
    ASSERT_EQ(::stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
  }
  EXPECT_ANY_THROW(EventFile("/proc/none"));
}

TEST(RunDirEvents, AreThoseOfTheMetricsAlsoAfterAResume) {
  const TempDir dir;
  const fs::path folder = dir / "run";
  {
    RunDir run(folder, "seed: 1\n", {});
    run.add_metric({"stage1", 0, 0, 10, "loss", 3});  // before anybody asked for events
    run.write_events();
    run.add_metric({"stage1", 1, 0, 10, "accuracy", 0.25});
  }
  RunDir run(folder, "seed: 1\n", {});
  run.write_events();
  run.add_metric({"stage2", -1, 0, 20, "loss", 1.5});
  ENS_PYTHON_OR_SKIP(outcome, kReader, {(folder / "tensorboard/train").string()});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_EQ(outcome.out,
            "stage1/net0/loss 10 3\nstage1/net1/accuracy 10 0.25\nstage2/ensemble/loss 20 1.5\n");
}

}  // namespace
}  // namespace ens::test
