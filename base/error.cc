// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

namespace ens {
namespace {

std::string join(const std::string& what, const std::string& where, const std::string& hint) {
  std::string text = what;
  if (!where.empty()) text += " (" + where + ")";
  if (!hint.empty()) text += "; " + hint;
  return text;
}

}  // namespace

Error::Error(Kind kind, const std::string& what, const std::string& where, const std::string& hint)
    : std::runtime_error(join(what, where, hint)),
      kind_(kind),
      parts_(std::make_shared<const Parts>(Parts{what, where, hint})) {}

void fail(const std::string& what, const std::string& where, const std::string& hint) {
  throw Error(Error::Kind::kFailure, what, where, hint);
}

void usage_fail(const std::string& what, const std::string& where, const std::string& hint) {
  throw Error(Error::Kind::kUsage, what, where, hint);
}

}  // namespace ens
