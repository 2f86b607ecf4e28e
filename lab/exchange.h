// SPDX-License-Identifier: Apache-2.0
// Networks that were trained elsewhere into run folders, and ours out of them (docs/import.md).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nn/core/tensor.h"
#include "proto/config.h"

namespace ens {

// Weights with torchvision's names, as they were read.
struct WeightsFile {
  std::string file, sha256;  // the digest in hex
  std::map<std::string, Tensor> weights;
};
// Error if it is no safetensors file.
WeightsFile read_weights(const std::filesystem::path& file);

// What `given`, a configuration before it is completed, asks for with these files in place of stage
// 1: as many nets as files, of one file without protection unless it names one. Usage Error if the
// protection is trained into the nets, or if there are more or fewer files than ensemble.nets.
RunConfig import_config(RunConfig given, const std::vector<WeightsFile>& files);

enum class ExchangeFormat { kSafetensors, kOnnx };

struct Exported {
  std::vector<std::filesystem::path> files;
  // What the edge does to a feature that is in no file, because it is drawn for every image or is
  // no addition; empty for none.
  std::vector<std::string> left_out;
};

// Writes into `folder`, which is made, what the finished run `run` consists of:
//   body0, body1, ...   the server nets
// and with `secrets`, readable by their owner alone (mode 0600),
//   head, tail          of the edge, which read images in [0, 1] and the selected bodies' outputs,
//                       concatenated along the channels
//   net                 of a run of one net: all of it, without what is done to the feature
// As safetensors under torchvision's names, beside a file "protection" of what is done to the
// feature and, of an ensemble, which nets are selected. As ONNX with a fixed noise at the end of
// the head, and the nets that the tail reads in its metadata. Usage Error for a run that is not
// finished, Error if it is damaged.
Exported export_run(const std::filesystem::path& run, const std::filesystem::path& folder,
                    ExchangeFormat format, bool secrets);

}  // namespace ens
