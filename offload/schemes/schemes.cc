// SPDX-License-Identifier: Apache-2.0
#include "offload/schemes/schemes.h"

#include "base/error.h"

namespace ens {

std::unique_ptr<Scheme> make_scheme(const std::string& name, const SchemeOptions& options) {
#define SCHEME(scheme, title, meaning) \
  if (name == #scheme) return make_##scheme(options);
#include "proto/schemes.inc"
#undef SCHEME
  usage_fail("scheme '" + name + "' is not known", "offload.scheme");
}

}  // namespace ens
