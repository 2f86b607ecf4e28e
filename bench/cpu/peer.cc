// SPDX-License-Identifier: Apache-2.0
#include "bench/cpu/peer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/strings.h"
#include "base/threads.h"

namespace ens::bench {

Peer::Peer(std::string name, std::vector<std::string> command, const std::string& install)
    : name_(std::move(name)), command_(std::move(command)) {
  signal(SIGPIPE, SIG_IGN);  // a peer that died is noticed by its missing answer
  const std::string threads = std::to_string(compute_threads());
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) fail("no pipe", "peer");
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    unpin_this_thread();
    // As PyTorch's guide to fast CPU runs has it: every thread on a processor of its own.
    setenv("OMP_NUM_THREADS", threads.c_str(), 1);
    setenv("OMP_PROC_BIND", "true", 1);
    unsetenv("GOMP_SPINCOUNT");
    std::vector<char*> words;
    for (const std::string& word : command_) words.push_back(const_cast<char*>(word.c_str()));
    words.insert(words.end(), {const_cast<char*>(threads.c_str()), nullptr});
    execv(words[0], words.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to_ = fdopen(in[1], "w");
  from_ = fdopen(out[0], "r");
  std::string line;
  if (pid_ > 0 && read_line(line) && line.starts_with("ok ")) {
    version_ = line.substr(3);
  } else {
    missing_ = name_ + " is not there: " + install;
  }
}

Peer::~Peer() {
  if (to_) fclose(to_);  // its end of input
  if (from_) fclose(from_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

bool Peer::read_line(std::string& line) {
  line.clear();
  for (int c = 0; (c = fgetc(from_)) != EOF;) {
    if (c == '\n') return true;
    line += static_cast<char>(c);
  }
  return false;
}

std::string Peer::ask(const std::string& command) {
  std::string line;
  if (fprintf(to_, "%s\n", command.c_str()) < 0 || fflush(to_) != 0 || !read_line(line)) {
    fail(name_ + "'s process ended", "peer", "run it by hand: " + join(command_, " "));
  }
  if (!line.starts_with("ok")) fail(line, "peer, " + command);
  return line.size() > 3 ? line.substr(3) : "";
}

}  // namespace ens::bench
