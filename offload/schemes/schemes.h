// SPDX-License-Identifier: Apache-2.0
// The schemes by name (proto/schemes.inc).
#pragma once

#include <memory>
#include <string>

#include "offload/core/scheme.h"

namespace ens {

// Usage Error for an unknown name, or options that the scheme cannot have.
std::unique_ptr<Scheme> make_scheme(const std::string& name, const SchemeOptions& options);

#define SCHEME(name, title, meaning) \
  std::unique_ptr<Scheme> make_##name(const SchemeOptions& options);
#include "proto/schemes.inc"
#undef SCHEME

}  // namespace ens
