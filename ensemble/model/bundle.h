// SPDX-License-Identifier: Apache-2.0
// What each party gets (spec: "What each party gets"): two files from one training.
//
// The cloud bundle holds the N bodies and nothing else. The edge bundle holds the secret rest and
// is written with mode 0600. Both carry the fingerprint of the N bodies, so that mixed-up trainings
// are refused.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/data/image_fit.h"
#include "nn/models/model.h"

namespace ens {

// Public facts, in both bundles.
struct BundleInfo {
  ModelSpec model;
  Split split;
  int nets = 1;             // N
  std::string fingerprint;  // 32 bytes: SHA-256 over all bodies' weights
  std::string data;         // name of the training set, for people
  // How images of another shape are made square (docs/images.md). Bundles of versions before do not
  // say: their edges stretched picture files and cropped frames.
  std::optional<ImageFit> fit;
  ImageFit fit_of_files() const { return fit.value_or(ImageFit::kStretch); }
  ImageFit fit_of_frames() const { return fit.value_or(ImageFit::kCrop); }
};

struct CloudBundle {
  BundleInfo info;
  std::vector<std::shared_ptr<Sequential>> bodies;  // frozen, evaluation mode
  // Which of the N nets the bodies are, ascending: all, unless the ensemble is spread over servers.
  // Empty in a bundle that was never written: all.
  std::vector<int> part;
  // For each body the ranges of its layers' inputs (nn/plan/float8.h), found by `ensembler
  // calibrate` on what edges send; empty: not calibrated. The cloud could find them from its own
  // traffic.
  std::vector<std::vector<float>> ranges;
  // Further public facts, by name, of whoever trained the nets: disguise/train/model.h.
  std::map<std::string, std::string> notes;
};

// Fills info.fingerprint and part from the bodies, which must be all N, and writes. The fingerprint
// does not depend on the ranges: edges go on with a cloud that has been calibrated.
void write_cloud_bundle(const std::filesystem::path& file, CloudBundle& bundle);
// Writes those nets alone, for one of several servers. The fingerprint stays that of all N. Error
// unless `part` is ascending and within 0 to N-1.
void write_part(const std::filesystem::path& file, const CloudBundle& bundle,
                const std::vector<int>& part);
// Error, which names the file, if it is damaged or its contents do not fit each other.
CloudBundle read_cloud_bundle(const std::filesystem::path& file);

// SHA-256 over names and weights of the bodies in order.
std::string fingerprint_of(const std::vector<std::shared_ptr<Sequential>>& bodies);

}  // namespace ens
