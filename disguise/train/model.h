// SPDX-License-Identifier: Apache-2.0
// A classifier of disguised images, as the cloud keeps it (docs/disguise.md).
//
// Its file is a cloud bundle (ensemble/model/bundle.h) of one whole network, split at h = t = 0:
// ensembler-cloud serves it, and what is sent to it are disguised images. Beside the weights it
// says which disguised set it was trained on, and under which key's id.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ensemble/model/bundle.h"

namespace ens {

class DisguisedSetReader;

struct DisguisedModel {
  BundleInfo info;                  // info.model: of the disguised images; info.split is {0, 0}
  std::shared_ptr<Sequential> net;  // frozen, evaluation mode
  // Of the training set (disguise/set/set.h); key_id is empty for a method without a key.
  std::string method, settings, key_id, set_id;
  std::vector<std::string> marks;

  Shape row() const { return info.model.input_shape(); }  // one disguised image [C, H, W]
};

// Fills info.fingerprint and writes, with mode 0644.
void write_disguised_model(const std::filesystem::path& file, DisguisedModel& model);
// Error, which names the file, if it is damaged or no such model.
DisguisedModel read_disguised_model(const std::filesystem::path& file);

// Disguised images [B, C, H, W] float32, as a set stores them -> logits [B, classes], float32 on
// the CPU. Usage Error for rows of another shape. Compiles the network for each call, so give it
// many rows at once.
Tensor classify_disguised(const DisguisedModel& model, const Tensor& rows, Device device = {});
// The share of a set's rows that are classified right; read in batches. Usage Error if the set is
// of another shape, method or key.
double disguised_accuracy(const DisguisedModel& model, const DisguisedSetReader& set,
                          Device device = {});

}  // namespace ens
