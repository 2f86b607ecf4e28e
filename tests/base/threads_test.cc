// SPDX-License-Identifier: Apache-2.0
// Several threads compute at once; where threads run.
#include "base/threads.h"

#include <sched.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

// The verbs of one convolution with batch norm, forward and back, for sizes that depend on `seed`.
std::vector<Values> train_verbs(uint64_t seed, Dtype dtype) {
  Backend& b = cpu_backend();
  const auto size = static_cast<int64_t>(6 + seed % 3);
  const ConvSpec spec{1, 1, 1, 1};
  const BatchNormSpec norm{.relu = true};
  const Tensor x = random_tensor({8, 16, size, size}, seed, dtype);
  const Tensor w = random_tensor({32, 16, 3, 3}, seed + 1);
  const Tensor gamma = Tensor::full({32}, 1), beta = Tensor::zeros({32});
  std::vector<Values> results;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const Tensor y = b.conv2d(x, w, Tensor(), spec);
    BatchNormSaved saved;
    const Tensor z = b.batch_norm_train(y, gamma, beta, Tensor(), norm, saved);
    Tensor workspace;
    const Tensor pooled = b.max_pool(z, {2, 2, 0}, true, workspace);
    const Tensor dz = b.max_pool_grad(pooled, workspace, {2, 2, 0}, z.shape());
    const BatchNormGrads g = b.batch_norm_train_grad(dz, y, z, gamma, beta, false, norm, saved);
    const Tensor dw = b.conv2d_grad_weight(x, g.x, spec, w.shape());
    const Tensor dx = b.conv2d_grad_input(g.x, w, spec, x.shape());
    results.assign({values(pooled), values(g.gamma), values(dw), values(dx)});
  }
  return results;
}

TEST(Threads, ConcurrentTrainingGivesTheSerialResult) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    if (!cpu_backend().supports(dtype)) continue;
    constexpr size_t kThreads = 4;
    std::vector<std::vector<Values>> serial(kThreads), parallel(kThreads);
    std::thread([&] {
      set_compute_threads(1);
      for (size_t t = 0; t < kThreads; ++t) serial[t] = train_verbs(t, dtype);
    }).join();
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        set_compute_threads(1);
        parallel[t] = train_verbs(t, dtype);
      });
    }
    for (auto& thread : threads) thread.join();
    for (size_t t = 0; t < kThreads; ++t) EXPECT_EQ(serial[t], parallel[t]) << t;
  }
}

TEST(Threads, TeamSizeBelongsToTheThreadAndChangesNoResult) {
  const int before = compute_threads();
  std::vector<Values> one, three;
  std::thread([&] {
    set_compute_threads(1);
    EXPECT_EQ(compute_threads(), 1);
    one = train_verbs(1, Dtype::kF32);
    set_compute_threads(3);
    EXPECT_EQ(compute_threads(), 3);
    three = train_verbs(1, Dtype::kF32);
  }).join();
  EXPECT_EQ(compute_threads(), before);
  ASSERT_EQ(one.size(), three.size());
  for (size_t i = 0; i < one.size(); ++i) {
    ASSERT_EQ(one[i].size(), three[i].size());
    for (size_t k = 0; k < one[i].size(); ++k) {
      EXPECT_NEAR(one[i][k], three[i][k], 1e-3 * (1 + std::abs(one[i][k])));
    }
  }
}

TEST(Threads, ParallelForCoversEveryItemOnce) {
  for (int64_t n : {0, 1, 7, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
    parallel_for(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
    });
    for (const auto& count : seen) EXPECT_EQ(count, 1);
  }
}

int allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  return CPU_COUNT(&set);
}

int the_processor() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) return cpu;
  }
  return -1;
}

TEST(Threads, PinningGivesEachThreadAProcessorOfItsOwn) {
  if (std::getenv("OMP_PROC_BIND") || std::getenv("OMP_PLACES") ||
      std::getenv("GOMP_CPU_AFFINITY")) {
    GTEST_SKIP() << "the user binds the threads";
  }
  const int all = allowed_processors();
  if (all < 2) GTEST_SKIP() << "one processor only";
  std::atomic<int> pinned{0};
  int where[2] = {-1, -1}, counts[2] = {0, 0}, unpinned[2] = {0, 0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      set_compute_threads(1);
      pin_compute_threads();
      counts[t] = allowed_processors();
      where[t] = the_processor();
      ++pinned;
      while (pinned < 2) std::this_thread::yield();  // a slot is free again when its thread ends
      unpin_this_thread();
      unpinned[t] = allowed_processors();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counts[0], 1);
  EXPECT_EQ(counts[1], 1);
  EXPECT_NE(where[0], where[1]);
  EXPECT_EQ(unpinned[0], all);
  EXPECT_EQ(unpinned[1], all);
  std::thread([&] {
    pin_this_thread(1);
    EXPECT_EQ(allowed_processors(), 1);
    unpin_this_thread();
    EXPECT_EQ(allowed_processors(), all);
  }).join();
  EXPECT_EQ(allowed_processors(), all);
}

TEST(Threads, Description) {
  const std::string text = cpu_backend().description();
  EXPECT_NE(text.find("CPU, " + std::to_string(compute_threads()) + " thread"), std::string::npos)
      << text;
  EXPECT_TRUE(cpu_backend().supports(Dtype::kF32));
  EXPECT_FALSE(cpu_backend().supports(Dtype::kU8));
}

// A profiler's timer survives exec, its handler does not: left running, it would end the program
// while it starts.
TEST(Threads, StartingAgainUnderAProfilersTimer) {
  // Under qemu-user without binfmt the kernel cannot execute this program.
  if (std::system("/proc/$PPID/exe --gtest_list_tests > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "this program cannot be executed without an emulator";
  }
  const pid_t child = fork();
  if (child == 0) {
    unsetenv("GOMP_SPINCOUNT");
    unsetenv("OMP_WAIT_POLICY");
    std::signal(SIGPROF, [](int) {});
    const itimerval often{{0, 1000}, {0, 1000}};
    setitimer(ITIMER_PROF, &often, nullptr);
    // Takes long enough to be hit.
    std::string name = "threads_test", work = "--gtest_filter=*ConcurrentTraining*";
    char* argv[] = {name.data(), work.data(), nullptr};
    reexec_with_openmp_settings(argv);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

// The processors that a container's quota pays for, in the files of both versions of cgroups.
TEST(Threads, QuotaOfAContainer) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "cgroups";
  fs::remove_all(folder);
  const auto write = [&](const fs::path& file, const std::string& text) {
    fs::create_directories((folder / file).parent_path());
    std::ofstream(folder / file) << text;
  };
  const auto processors = [&](const std::string& memberships) {
    write("memberships", memberships);
    return cgroup_processors(folder, folder / "memberships");
  };
  write("pod/box/cpu.max", "max 100000\n");
  EXPECT_EQ(processors("0::/pod/box\n"), 0);
  write("pod/cpu.max", "150000 100000\n");  // of the group around it
  EXPECT_EQ(processors("0::/pod/box\n"), 2);
  write("pod/box/cpu.max", "20000 100000\n");
  EXPECT_EQ(processors("0::/pod/box\n"), 1);
  write("cpu,cpuacct/docker/1/cpu.cfs_quota_us", "-1\n");
  write("cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(processors("4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n"), 0);
  write("cpu,cpuacct/docker/1/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(processors("4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n"), 3);
  // A container sees its own group as the root of what is mounted.
  write("cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(processors("4:cpu,cpuacct:/not/mounted\n"), 2);
}

// The kernel's own files: what `docker run --cpus=1` sets. Needs root and cgroups to write to.
TEST(Threads, QuotaOfARealGroupOfTheKernel) {
  namespace fs = std::filesystem;
  const bool version1 = fs::exists("/sys/fs/cgroup/cpu/cpu.shares");
  const fs::path group = fs::path(version1 ? "/sys/fs/cgroup/cpu" : "/sys/fs/cgroup") /
                         ("ens-test-" + std::to_string(getpid()));
  const auto write = [&](const char* file, const std::string& text) {
    std::ofstream out(group / file);
    out << text << std::flush;
    return static_cast<bool>(out);
  };
  std::error_code error;
  fs::create_directory(group, error);
  const bool set = !error && (version1 ? write("cpu.cfs_period_us", "100000") &&
                                             write("cpu.cfs_quota_us", "100000")
                                       : write("cpu.max", "100000 100000"));
  int status = -1;
  if (set) {
    const pid_t child = fork();
    if (child == 0) {
      if (!write("cgroup.procs", std::to_string(getpid()))) _exit(100);
      _exit(cgroup_processors());
    }
    waitpid(child, &status, 0);
  }
  fs::remove(group, error);
  if (!set || (WIFEXITED(status) && WEXITSTATUS(status) == 100)) {
    GTEST_SKIP() << "no control group can be made here";
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << "status " << status;
}

}  // namespace
}  // namespace ens
