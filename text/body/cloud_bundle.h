// SPDX-License-Identifier: Apache-2.0
// What the server of a split translation gets, cloud.h5: the bodies, and no word of any language.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/io/checkpoint.h"
#include "nn/modules/seq2seq.h"

namespace ens {

struct TextCloudBundle {
  std::vector<std::shared_ptr<Seq2Seq>> nets;  // frozen
  std::string fingerprint;                     // hex; of the weights
};
void write_text_cloud(const std::filesystem::path& file,
                      const std::vector<std::shared_ptr<Seq2Seq>>& nets);
// Error if missing, damaged, or of another kind.
TextCloudBundle read_text_cloud(const std::filesystem::path& file);

// A module's state in a checkpoint, its names behind `prefix`, and back into it, frozen.
void put_module(Checkpoint& c, const std::string& prefix, const Module& module);
void load_module(const Checkpoint& c, const std::string& prefix, Module& module);
// A number of the file; Error if it is out of range.
int number_in(const Checkpoint& c, const std::string& name, int64_t low, int64_t high);

}  // namespace ens
