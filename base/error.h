// SPDX-License-Identifier: Apache-2.0
// The one exception type of the project.
//
// Inside a process every failure is an `ens::Error` that says what went wrong, where, and what to
// try. It never crosses a thread boundary or a socket: there `ens::Status` (proto/status.h) is
// used. Messages must never contain secret values (selector, weights, noise, keys, pixels,
// features).
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

namespace ens {

class Error : public std::runtime_error {
 public:
  // kUsage: the caller asked for something impossible (programs exit with 2).
  // kFailure: the request was fine but could not be carried out (programs exit with 1).
  enum class Kind { kUsage, kFailure };

  // `what` names the problem, `where` the file, field or operation, `hint` the next thing to try.
  // The latter two may be empty. what() is the three joined on one line.
  Error(Kind kind, const std::string& what, const std::string& where = "",
        const std::string& hint = "");

  Kind kind() const { return kind_; }
  // The three as they were given.
  const std::string& problem() const { return parts_->what; }
  const std::string& where() const { return parts_->where; }
  const std::string& hint() const { return parts_->hint; }
  int exit_code() const { return kind_ == Kind::kUsage ? 2 : 1; }

 private:
  struct Parts {
    std::string what, where, hint;
  };
  Kind kind_;
  std::shared_ptr<const Parts> parts_;  // so that copying throws nothing
};

// Throw an Error of kind kFailure / kUsage.
[[noreturn]] void fail(const std::string& what, const std::string& where = "",
                       const std::string& hint = "");
[[noreturn]] void usage_fail(const std::string& what, const std::string& where = "",
                             const std::string& hint = "");

}  // namespace ens
