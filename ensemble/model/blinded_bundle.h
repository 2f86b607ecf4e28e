// SPDX-License-Identifier: Apache-2.0
// What the edge of blinded inference gets: a whole network with int8 layers (docs/offload.md). It
// holds no secret; the workers are sent the layers' weights by the edge.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ensemble/model/bundle.h"
#include "nn/io/checkpoint.h"
#include "nn/plan/int8.h"

namespace ens {

struct BlindedBundle {
  BundleInfo
      info;  // one net; the fingerprint is that of this file's tensors. Its split says nothing
  std::vector<std::string> class_names;
  Int8Net net;  // images -> logits
};

// The same kind of file as an edge bundle ("edge"), in a newer format.
void write_blinded_bundle(const std::filesystem::path& file,
                          BlindedBundle& bundle);  // fills info.fingerprint
BlindedBundle read_blinded_bundle(const std::filesystem::path& file);
BlindedBundle read_blinded_bundle(const Checkpoint& checkpoint);  // of a file of kind "edge"

// Which of the two an edge's file is.
bool is_blinded_bundle(const Checkpoint& checkpoint);

}  // namespace ens
