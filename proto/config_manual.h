// SPDX-License-Identifier: Apache-2.0
// The manual of all settings, as Markdown: docs/config.md is this text.
#pragma once

#include <string>

namespace ens {

// One table for each message of config.proto, from the options of its fields.
std::string config_manual();

}  // namespace ens
