// SPDX-License-Identifier: Apache-2.0
// ens-trusted: the simulated enclave, started by a host that talks to it over a socket. It protects
// nothing from the machine's owner.
#include <sys/prctl.h>

#include <CLI/CLI.hpp>

#include "base/flags.h"
#include "base/program.h"
#include "base/threads.h"
#include "offload/trusted/enclave.h"

int main(int argc, char** argv) {
  return ens::run_program("ens-trusted", argv, [&] {
    int socket = -1, threads = 1;
    CLI::App app{
        "The simulated enclave of `ensembler offload bench`, started by it. A process with a "
        "memory "
        "budget and one socket; it protects nothing from the machine's owner.",
        "ens-trusted"};
    app.add_option("--socket", socket, "descriptor of the host's socket")
        ->required()
        ->check(ens::at_least(3));
    app.add_option("--threads", threads, "CPU threads")->check(ens::at_least(1));
    ens::parse_flags(app, argc, argv);
    prctl(PR_SET_DUMPABLE, 0);  // no core dump with images or masks
    ens::set_compute_threads(threads);
    ens::serve_enclave(socket);
    return 0;
  });
}
