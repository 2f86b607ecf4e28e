// The client's secret half (see bundle.h). Never included by cloud/ or attacks/.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ensemble/model/bundle.h"
#include "ensemble/model/selector.h"
#include "ensemble/protect/protection.h"
#include "nn/io/checkpoint.h"

namespace ens {

struct EdgeBundle {
  BundleInfo info;
  std::vector<std::string> class_names;
  std::shared_ptr<Sequential> head;  // frozen, evaluation mode
  std::shared_ptr<Sequential> tail;  // reads P concatenated answers
  Selector selector;
  ProtectionSpec protection;  // what is done to the head's output before it is sent
};

void write_edge_bundle(const std::filesystem::path& file, const EdgeBundle& bundle);  // mode 0600
EdgeBundle read_edge_bundle(const std::filesystem::path& file);
EdgeBundle read_edge_bundle(const Checkpoint& checkpoint);  // of a file of kind "edge"

}  // namespace ens
