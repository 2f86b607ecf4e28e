// SPDX-License-Identifier: Apache-2.0
#include "text/train/protections.h"

#include <map>

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

const std::map<std::string, TextProtection>& known() {
  static const std::map<std::string, TextProtection> all{
      {"none", TextProtection::kNone},
      {"additive", TextProtection::kNoiseAfterwards},
      {"single", TextProtection::kNoise},
      {"ensembler", TextProtection::kEnsemble}};
  return all;
}

}  // namespace

TextProtection text_protection(const std::string& kind) {
  const auto found = known().find(kind);
  if (found == known().end()) {
    usage_fail("protection.kind '" + kind + "' is not made for text", "",
               "use one of " + join(text_protections()));
  }
  return found->second;
}

std::vector<std::string> text_protections() {
  std::vector<std::string> names;
  for (const auto& [name, meaning] : known()) names.push_back(name);
  return names;
}

}  // namespace ens
