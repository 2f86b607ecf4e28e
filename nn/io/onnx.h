// SPDX-License-Identifier: Apache-2.0
// Graphs as ONNX files, opset 13, for other runtimes to compute.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nn/core/graph.h"

namespace ens {

struct OnnxOptions {
  std::string name = "net";  // of the graph
  Tensor offset;  // added to the output: of its shape, without the batch axis, or undefined
  std::map<std::string, std::string> metadata;
  bool secret = false;  // as in write_file_atomically()
};

// One model that computes all `nets`, fused or not, from one "input" [batch, ...]: its outputs are
// "output", or "output0", "output1", ... of several, float32. Error if the nets read inputs of
// different shapes, or if the file would have more than 2 GiB, which is Protobuf's limit.
void write_onnx(const std::filesystem::path& file, const std::vector<Graph>& nets,
                const OnnxOptions& options = {});

}  // namespace ens
