// SPDX-License-Identifier: Apache-2.0
// What a person should know of a command that goes on: a line on stderr.
#pragma once

#include <functional>
#include <string>

namespace ens {

// From any thread. `line` has no line end.
void notice(const std::string& line);

// Notices go to `listener` instead, of the whole process and from any thread: for programs whose
// stderr is not ours. Empty: stderr again.
void set_notice_listener(std::function<void(const std::string& line)> listener);

}  // namespace ens
