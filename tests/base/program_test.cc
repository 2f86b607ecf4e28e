// SPDX-License-Identifier: Apache-2.0
// Programs that lose their output say so; commands to paste are quoted as a shell reads them.
#include "base/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "base/error.h"

namespace ens {
namespace {

// Exit code of a child that first does `prepare` and then runs `body` as a program.
int exit_code(const std::function<void()>& prepare, const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    prepare();
    _exit(run_program("child", nullptr, body));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int print_answer() {
  std::printf("{\"label\": \"cat\"}\n");
  return 0;
}

TEST(Program, FullDiskBehindStandardOutputIsAFailure) {
  const auto to = [](const char* file) {
    return [file] { dup2(open(file, O_WRONLY), STDOUT_FILENO); };
  };
  EXPECT_EQ(exit_code(to("/dev/full"), print_answer), 1);
  EXPECT_EQ(exit_code(to("/dev/null"), print_answer), 0);
}

TEST(Program, ClosedStandardOutputIsAFailureAndItsNumberIsNotReused) {
  const auto close_all = [] {
    for (const int fd : {0, 1, 2}) close(fd);
  };
  EXPECT_EQ(exit_code(close_all, print_answer), 1);
  EXPECT_GE(exit_code(close_all, [] { return open("/dev/null", O_RDONLY); }), 3);
}

TEST(Program, ErrorsBecomeExitCodes) {
  const auto nothing = [] { close(STDERR_FILENO); };
  EXPECT_EQ(exit_code(nothing, []() -> int { usage_fail("no such flag"); }), 2);
  EXPECT_EQ(exit_code(nothing, []() -> int { fail("no such file"); }), 1);
  EXPECT_EQ(exit_code(nothing, []() -> int { throw std::runtime_error("x"); }), 1);
  EXPECT_EQ(exit_code(nothing, [] { return 7; }), 7);
}

// What /bin/sh makes of the word.
std::string as_shell_reads(const std::string& word) {
  FILE* pipe = popen(("printf %s " + word).c_str(), "r");
  std::string out;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) out += static_cast<char>(c);
  pclose(pipe);
  return out;
}

TEST(Program, PathsInPrintedCommandsAreQuotedForTheShell) {
  EXPECT_EQ(shell_quoted("runs/mine"), "runs/mine");
  for (const std::string text : {"a & b", "it's", "$HOME", "*", "a\nb", "-x", "`id`", "\\"}) {
    EXPECT_EQ(as_shell_reads(shell_quoted(text)), text);
  }
  EXPECT_EQ(shell_quoted(""), "''");
}

}  // namespace
}  // namespace ens
