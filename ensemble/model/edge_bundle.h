// SPDX-License-Identifier: Apache-2.0
// The client's secret half (see bundle.h). Never included by cloud/ or attacks/.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ensemble/model/bundle.h"
#include "ensemble/model/selector.h"
#include "ensemble/protect/protection.h"
#include "nn/io/checkpoint.h"
#include "nn/plan/int8.h"

namespace ens {

// The first cells of a head, where workers compute their layers (docs/offload.md).
struct BlindedCells {
  int count = 0;
  Int8Net net;  // images -> what the rest of the head reads
};

struct EdgeBundle {
  BundleInfo info;
  std::vector<std::string> class_names;
  std::shared_ptr<Sequential> head;  // frozen, evaluation mode; without the blinded cells
  std::shared_ptr<Sequential> tail;  // reads P concatenated answers
  Selector selector;
  ProtectionSpec protection;            // what is done to the head's output before it is sent
  std::optional<BlindedCells> blinded;  // before the head; none: all of it is here
};

// Moves the first cells of the head, 1 to info.split.head, into `blinded`: int8, with ranges found
// on these images [B, C, H, W].
void blind_cells(EdgeBundle& bundle, int cells, const Tensor& images);

void write_edge_bundle(const std::filesystem::path& file, const EdgeBundle& bundle);  // mode 0600
EdgeBundle read_edge_bundle(const std::filesystem::path& file);
EdgeBundle read_edge_bundle(const Checkpoint& checkpoint);  // of a file of kind "edge"

}  // namespace ens
