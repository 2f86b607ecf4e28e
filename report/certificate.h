// SPDX-License-Identifier: Apache-2.0
// A certificate (docs/channel.md) in words: what it says, and what it does not.
#pragma once

#include <string>

#include "proto/results.pb.h"

namespace ens {

// Several lines, for terminals and pages.
std::string certificate_text(const results::Certificate& certificate);

}  // namespace ens
