#include "tests/edge/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace ens::test {
namespace {

std::string contents(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, std::filesystem::path stem)
    : stem_(std::move(stem)) {
  std::vector<char*> pointers;
  for (const std::string& arg : argv) pointers.push_back(const_cast<char*>(arg.c_str()));
  pointers.push_back(nullptr);
  const std::string out = stem_.string() + ".out", err = stem_.string() + ".err";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), kFlags, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), kFlags, 0600);
  const int error =
      posix_spawn(&pid_, argv[0].c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    pid_ = -1;
    throw std::runtime_error("cannot start " + argv[0] + ": " + std::strerror(error));
  }
}

Process::~Process() {
  if (running()) {
    signal(SIGKILL);
    reap(true);
  }
}

void Process::signal(int number) {
  if (running()) ::kill(pid_, number);
}

bool Process::reap(bool block) {
  int status = 0;
  if (pid_ < 0 || ::waitpid(pid_, &status, block ? 0 : WNOHANG) != pid_) return false;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return true;
}

bool Process::running() {
  reap(false);
  return pid_ >= 0;
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

std::string Process::out() const { return contents(stem_.string() + ".out"); }
std::string Process::err() const { return contents(stem_.string() + ".err"); }

std::string wait_for_file(const std::filesystem::path& file, Process& writer) {
  while (!std::filesystem::exists(file)) {
    if (!writer.running()) return "";
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  return line;
}

}  // namespace ens::test
