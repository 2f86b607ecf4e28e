// SPDX-License-Identifier: Apache-2.0
// The attacks on split inference, as every room may know them: the lines of attacks.inc. What they
// do: attacks/split.
#pragma once

#include <cstddef>
#include <string>

namespace ens {

// The place in tables of the attack `name` ("shadow-n1"). The floor, the last in attacks.inc, comes
// last; attacks that are not known come just before it.
size_t attack_rank(const std::string& name);

}  // namespace ens
