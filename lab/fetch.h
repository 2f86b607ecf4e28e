// SPDX-License-Identifier: Apache-2.0
// Downloading a data set with progress lines, for every command that does so.
#pragma once

#include <filesystem>
#include <string>

namespace ens {

// fetch_dataset (nn/data/fetch.h) with one bar a file; its last line is out when this returns.
void fetch_with_bars(const std::string& name, const std::filesystem::path& root);

}  // namespace ens
