#include "bench/cpu/peer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/threads.h"

namespace ens::bench {

Peer::Peer(const std::string& script) {
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
    const char* python = "/usr/bin/python3";
    execl(python, python, "-W", "ignore", script.c_str(), threads.c_str(), nullptr);
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
    missing_ = "PyTorch is not there: apt-get install python3-torch";
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
    fail("PyTorch's process ended", "peer", "run bench/cpu/peer.py by hand");
  }
  if (!line.starts_with("ok")) fail(line, "peer, " + command);
  return line.size() > 3 ? line.substr(3) : "";
}

}  // namespace ens::bench
