// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"

extern char** environ;

namespace ens {

Process::Process(const std::vector<std::string>& arguments, const Options& options)
    : name_(arguments.at(0)) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  int ends[2] = {-1, -1};
  if (options.capture) {
    if (pipe2(ends, O_CLOEXEC) != 0) fail(std::strerror(errno), "pipe");
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  }
  const auto open_as = [&](int fd, const std::string& file, int flags) {
    if (!file.empty()) posix_spawn_file_actions_addopen(&actions, fd, file.c_str(), flags, 0600);
  };
  open_as(STDIN_FILENO, options.no_input ? "/dev/null" : "", O_RDONLY);
  open_as(STDOUT_FILENO, options.out_file, O_WRONLY | O_CREAT | O_TRUNC);
  open_as(STDERR_FILENO, options.err_file,
          O_WRONLY | O_CREAT | (options.err_append ? O_APPEND : O_TRUNC));
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  if (options.own_group) {
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
  }
  const int error = posix_spawn(&pid_, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (ends[1] >= 0) close(ends[1]);
  pipe_ = ends[0];
  if (error != 0) {
    if (pipe_ >= 0) close(pipe_);
    fail(std::string("cannot start: ") + std::strerror(error), name_,
         "it should lie beside this program");
  }
}

Process::~Process() {
  if (pipe_ >= 0) close(pipe_);
  if (pid_ < 0) return;
  kill(pid_, SIGTERM);
  for (int i = 0; i < 200 && !reap(false); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (pid_ >= 0) {
    kill(pid_, SIGKILL);
    reap(true);
  }
}

bool Process::reap(bool block) {
  if (pid_ < 0) return true;
  int status = 0;
  pid_t done;
  do {
    done = waitpid(pid_, &status, block ? 0 : WNOHANG);
  } while (done < 0 && errno == EINTR);
  if (done == 0) return false;
  code_ = done < 0 ? 1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return true;
}

bool Process::running() { return !reap(false); }

void Process::signal(int number) {
  if (running()) kill(pid_, number);
}

int Process::wait(std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (running()) {
    if (std::chrono::steady_clock::now() > end) {
      signal(SIGKILL);
      reap(true);
      return -1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return code_;
}

int Process::wait() {
  if (pipe_ >= 0) {
    char buffer[4096];
    ssize_t n;
    while ((n = read(pipe_, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) {
      if (n > 0) output_.append(buffer, static_cast<size_t>(n));
    }
    close(pipe_);
    pipe_ = -1;
  }
  reap(true);
  return code_;
}

}  // namespace ens
