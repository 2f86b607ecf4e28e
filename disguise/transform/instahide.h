// SPDX-License-Identifier: Apache-2.0
// InstaHide (Huang et al., ICML 2020): every encoding is a mixture of normalised images whose
// pixels change their signs at random.
#pragma once

#include <cstdint>
#include <vector>

#include "base/secret_rng.h"
#include "disguise/transform/transform.h"

namespace ens {

// Images that may be mixed in, and how they are normalised: (pixel - mean[c]) / stddev[c].
struct MixingPool {
  Tensor images;                    // uint8 [P,C,H,W]
  std::vector<float> mean, stddev;  // of pixels in 0..255, by channel
};

struct InstahideParameters {
  int k = 4;           // images in a mixture
  bool plain = false;  // of the transform: images are normalised and sent as they are
  MixingPool own;      // the owner's images
  MixingPool others;   // `cross`: public ones, of which k - 2 are in a mixture; undefined: `inside`
  bool cross() const { return others.images.defined(); }
};

// The weights of a mixture: k numbers |N(0,1)| over their sum, drawn again while one is above .65
// or, of `cross`, the first two together are below .3.
std::vector<double> instahide_weights(int k, bool cross, SecretRng& rng);

// For queries: each image is the first of a mixture with others of the pools. Rows are in units of
// the normalisation, [C,H,W]. Error for impossible parameters; usage Error for fewer than k images.
std::unique_ptr<Transform> instahide_transform(const ImageShape& image,
                                               const InstahideParameters& parameters);

// For training: the images `first` of the owner's pool, each the first of a mixture of its own.
struct Encodings {
  Tensor rows;    // float32 [B,C,H,W]
  Tensor labels;  // float32 [B,classes]: the weights of the owner's images by class; what public
                  // ones weigh is missing from the sum
};
Encodings instahide_encode(const ImageShape& image, const InstahideParameters& parameters,
                           const std::vector<int64_t>& first,
                           const std::vector<int32_t>& labels_of_own, int64_t classes,
                           FreshRandomness& fresh);

}  // namespace ens
