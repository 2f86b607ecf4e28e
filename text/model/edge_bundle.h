// SPDX-License-Identifier: Apache-2.0
// What the client of a split translation gets, edge.h5, a secret: embeddings, noise, client layers,
// projection and generator, tokenisers, and which nets are read.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "text/model/model.h"
#include "text/model/tokeniser.h"

namespace ens {

struct TextEdgeBundle {
  TextConfig config;  // complete
  TokeniserPtr source, target;
  std::shared_ptr<TextHead> head;  // frozen, in evaluation mode
  std::shared_ptr<TextTail> tail;
  int nets = 1;               // of the cloud's
  std::vector<int> selected;  // which of them the tail reads
  float fresh_sigma = 0;
  std::string fingerprint;  // of the cloud bundle that belongs to it
};
void write_text_edge(const std::filesystem::path& file, const TextEdgeBundle& bundle);
TextEdgeBundle read_text_edge(const std::filesystem::path& file);
// Whether the file is one of these (cheap).
bool is_text_edge(const std::filesystem::path& file);

}  // namespace ens
