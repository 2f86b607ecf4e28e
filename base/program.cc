// SPDX-License-Identifier: Apache-2.0
#include "base/program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/threads.h"

namespace ens {
namespace {

void open_closed_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    // open() takes the lowest free number, which is `fd`: those below it are open by now.
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDONLY) < 0) return;
  }
}

int report(const char* name, const char* what, int code) {
  std::fprintf(stderr, "%s: %s\n", name, what);
  return code;
}

int run_body(const char* name, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    return report(name, error.what(), error.exit_code());
  } catch (const std::exception& error) {
    return report(name, error.what(), 1);
  }
}

}  // namespace

int run_program(const char* name, char** argv, const std::function<int()>& body) {
  open_closed_descriptors();
  if (argv) reexec_with_openmp_settings(argv);
  const int code = run_body(name, body);
  const int output = run_body(name, [] { return flush_output(), 0; });
  return code != 0 ? code : output;
}

void flush_output() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  const std::string reason = errno != 0 ? std::strerror(errno) : "an earlier write failed";
  std::clearerr(stdout);  // reported once
  fail("cannot write to standard output: " + reason, "", "check where it is redirected to");
}

void announce_address(const std::string& address, const std::string& ready_file) {
  std::printf("%s\n", address.c_str());
  flush_output();
  if (!ready_file.empty()) write_file_atomically(ready_file, address + "\n", /*secret=*/false);
}

std::string shell_quoted(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace ens
