// SPDX-License-Identifier: Apache-2.0
#include "studio/jobs.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <thread>

#include "base/files.h"
#include "studio/site.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// In place of `ensembler`: says how far it is, keeps what it did in a file, stops when it is told
// to.
constexpr const char* kProgram = R"(#!/bin/sh
shift 2
case $1 in
  fail) echo "no such thing" >&2; exit 3 ;;
  quick) echo '{"label":"quick","done":1,"total":1,"unit":"steps"}' >&2; exit 0 ;;
esac
deaf=; [ "$1" != deaf ] || deaf=1
echo $$ >"$2.pid"
trap '[ -n "$deaf" ] || exit 1' TERM
i=$(cat "$2" 2>/dev/null || echo 0)
while [ "$i" -lt 400 ]; do
  i=$((i + 1)); echo "$i" >"$2"
  echo '{"label":"work","done":'$i',"total":400,"unit":"steps","note":"at work"}' >&2
  sleep 0.02
done
)";

struct JobsTest : testing::Test {
  JobsTest() {
    std::ofstream(temp / "program") << kProgram;
    fs::permissions(temp / "program", fs::perms::owner_all);
    open();
  }
  void open(uint64_t least_free = 0) {
    jobs.reset();
    jobs = std::make_unique<Jobs>(
        JobsOptions{
            .program = temp / "program", .state = temp / "state", .least_free_bytes = least_free},
        [this](const studio::Job&) { ++changes; });
  }
  studio::Job start(const std::string& what, const std::string& name = "a") {
    return jobs->submit({}, {.title = what, .arguments = {what, (temp / name).string()}});
  }
  // Waits until the job is in a state, and returns it.
  studio::Job wait(const std::string& id, const std::string& state) {
    for (int i = 0; i < 1000; ++i) {
      const studio::Job job = jobs->get(id);
      if (job.state() == state) return job;
      std::this_thread::sleep_for(10ms);
    }
    ADD_FAILURE() << "never " << state << " but " << jobs->get(id).state();
    return {};
  }
  int steps(const std::string& name = "a") {
    int n = 0;
    std::ifstream(temp / name) >> n;
    return n;
  }
  void wait_for_steps(int n) {
    for (int i = 0; i < 1000 && steps() < n; ++i) std::this_thread::sleep_for(10ms);
    ASSERT_GE(steps(), n);
  }

  test::TempDir temp;
  std::atomic<int> changes{0};
  std::unique_ptr<Jobs> jobs;
};

TEST_F(JobsTest, RunAndTellHowFarTheyAre) {
  const studio::Job job = start("quick");
  const studio::Job done = wait(job.id(), "done");
  EXPECT_EQ(done.progress().label(), "quick");
  EXPECT_GT(done.ended(), 0);
  EXPECT_GE(changes, 3);  // queued, running, done
  const studio::Job failed = wait(start("fail").id(), "failed");
  EXPECT_EQ(failed.reason(), "no such thing");
  ASSERT_EQ(failed.log_size(), 1);
}

TEST_F(JobsTest, EqualRequestsJoinOneJob) {
  const std::string id = start("work").id();
  EXPECT_EQ(start("work").id(), id);
  EXPECT_NE(start("work", "b").id(), id);
  EXPECT_EQ(jobs->list().jobs_size(), 2);
  EXPECT_EQ(jobs->list().jobs(0).state(), "queued");  // one at a time
}

TEST_F(JobsTest, CancelEndsTheWork) {
  const std::string id = start("work").id();
  wait_for_steps(3);
  pid_t pid = 0;
  std::ifstream(temp / "a.pid") >> pid;
  EXPECT_EQ(getpgid(pid), pid);  // Ctrl-C in the server's terminal is not for it
  jobs->cancel(id);
  wait(id, "cancelled");
  const int before = steps();
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(steps(), before);
  EXPECT_THROW(jobs->cancel(id), Refusal);
  start("work");  // one at a time: the next one waits
  const std::string queued = start("work", "b").id();
  jobs->pause(queued);
  EXPECT_EQ(jobs->cancel(queued).state(), "cancelled");  // at once
}

TEST_F(JobsTest, CancelEndsAlsoWhoDoesNotListen) {
  const std::string id = start("deaf").id();
  wait_for_steps(3);
  const auto begin = std::chrono::steady_clock::now();
  jobs->cancel(id);
  wait(id, "cancelled");
  EXPECT_GT(std::chrono::steady_clock::now() - begin, 4s);
}

TEST_F(JobsTest, PausedJobsGoOnWhereTheyWere) {
  const std::string id = start("work").id();
  wait_for_steps(3);
  jobs->pause(id);
  wait(id, "paused");
  const int before = steps();
  jobs->resume(id);
  wait_for_steps(before + 2);
  EXPECT_EQ(jobs->get(id).state(), "running");
}

TEST_F(JobsTest, AServerThatEndsLeavesThemInterrupted) {
  const std::string id = start("work").id();
  const std::string queued = start("work", "b").id();
  wait_for_steps(3);
  open();
  EXPECT_EQ(jobs->get(id).state(), "interrupted");
  EXPECT_EQ(jobs->get(queued).state(), "interrupted");
  const int before = steps();
  jobs->resume(id);
  wait_for_steps(before + 2);
}

TEST_F(JobsTest, WhoEndsBothLeavesThemInterrupted) {
  const std::string id = start("work").id();
  wait_for_steps(3);
  pid_t pid = 0;
  std::ifstream(temp / "a.pid") >> pid;
  ASSERT_GT(pid, 1);
  kill(pid, SIGKILL);  // as at the end of a session
  open();
  EXPECT_EQ(jobs->get(id).state(), "interrupted");
}

// kill -9: nobody was there to stop the command.
TEST_F(JobsTest, AServerThatWasKilledFindsThemAgain) {
  jobs.reset();
  const pid_t server = fork();
  if (server == 0) {
    Jobs doomed({.program = temp / "program", .state = temp / "state", .least_free_bytes = 0},
                [](const studio::Job&) {});
    doomed.submit({}, {.title = "work", .arguments = {"work", (temp / "a").string()}});
    for (;;) pause();
  }
  wait_for_steps(3);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  open();
  ASSERT_EQ(jobs->list().jobs_size(), 1);
  const studio::Job job = jobs->list().jobs(0);
  EXPECT_EQ(job.state(), "interrupted");
  const int before = steps();
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(steps(), before) << "the command of the killed server still works in the folder";
  jobs->resume(job.id());
  wait_for_steps(before + 2);
}

TEST_F(JobsTest, AFullDiskStartsNothing) {
  open(uint64_t{1} << 62);
  try {
    start("quick");
    FAIL();
  } catch (const Refusal& refusal) {
    EXPECT_EQ(refusal.status, 507u);
    EXPECT_NE(std::string(refusal.what()).find("MB left"), std::string::npos);
  }
}

TEST_F(JobsTest, ADamagedJobIsLeftOut) {
  const std::string id = start("quick").id();
  wait(id, "done");
  jobs.reset();
  std::ofstream(temp / "state" / "jobs" / id / "job.json") << "{\"job\":";
  fs::create_directories(temp / "state" / "jobs" / "odd");
  open();
  EXPECT_EQ(jobs->list().jobs_size(), 0);
  EXPECT_THROW(jobs->get("../../etc"), Refusal);
}

}  // namespace
}  // namespace ens
