// SPDX-License-Identifier: Apache-2.0
// What every program of the project does around its own work.
#pragma once

#include <functional>
#include <string>

namespace ens {

// The body of main(). Calls `body` and returns its exit code. First of all the program is started
// once more if OpenMP needs it (reexec_with_openmp_settings() in base/threads.h), unless `argv` is
// null.
// - An exception becomes one line on standard error, "NAME: what, where, what to try": exit code 2
// for a usage Error,
//   1 for everything else.
// - Standard output is flushed and checked at the end: what could not be written is a failure with
// exit code 1.
// - A standard descriptor (0, 1, 2) that the caller closed is opened on /dev/null first, for
// reading, so that no socket
//   or file of ours gets its number; what is printed there then fails, and is reported as above.
int run_program(const char* name, char** argv, const std::function<int()>& body);

// Flushes standard output. Error if anything written to it so far was lost (disk full, closed). For
// programs that print for a long time and should stop when nobody receives it.
void flush_output();

// For a server that is ready: prints its address and, unless `ready_file` is empty, writes it
// there, for a process that waits for it; the file appears complete or not at all. Error if one of
// the two fails.
void announce_address(const std::string& address, const std::string& ready_file);

// `text` as one word of a POSIX shell: itself if nothing in it is special, else in single quotes.
// For commands that are printed to be pasted.
std::string shell_quoted(const std::string& text);

}  // namespace ens
