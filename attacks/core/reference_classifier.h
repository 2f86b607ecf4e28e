// SPDX-License-Identifier: Apache-2.0
// Reference classifier: somebody who never saw the client looks at a reconstruction. Does it still
// show what the original showed, and could one say which original it was? Both catch what SSIM
// misses: a negative, or wrong colours, that a person recognises at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nn/data/dataset.h"
#include "nn/models/model.h"

namespace ens {

// Immutable once made; thread-safe.
class ReferenceClassifier {
 public:
  // A small ResNet-18 (width 16), whatever the client's net is, trained on `images` images of
  // `data` in all: several epochs of it, or a part. on_step(images) after every batch; may be
  // empty. Error if the training diverges.
  ReferenceClassifier(const Dataset& data, int64_t images, Device device, Dtype dtype,
                      uint64_t seed, const std::function<void(int64_t images)>& on_step);

  // For each image [M,C,S,S] in [0, 1]: 1 where the classifier sees its label, 0 where not.
  std::vector<double> recognition_of(const Tensor& images, std::span<const int32_t> labels) const;
  // The cosine, for each image [M,C,S,S] and each of a gallery [G,C,S,S], of what the classifier's
  // last layer reads, less the gallery's mean: [M, G].
  Tensor similarity(const Tensor& images, const Tensor& gallery) const;
  // For each reconstruction: 1 where, of all originals, its own is the nearest by similarity().
  // Rank-1 re-identification with the originals as gallery; chance is 1 / M.
  std::vector<double> reidentification_of(const Tensor& originals,
                                          const Tensor& reconstructions) const;

 private:
  // body_ over the images: [M, D] on the CPU.
  Tensor embed(const Tensor& images) const;

  Device device_;
  Dtype dtype_;
  std::shared_ptr<Sequential> body_, last_;  // all cells but the last; the last
};

}  // namespace ens
