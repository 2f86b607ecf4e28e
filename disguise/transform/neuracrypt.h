// SPDX-License-Identifier: Apache-2.0
// NeuraCrypt (Yala et al., arXiv 2106.02484): every patch of an image through a random network
// that nobody trains; the codes of an image are in random order.
#pragma once

#include <vector>

#include "disguise/transform/blocks.h"

namespace ens {

// The network, for n patches of q = C p p pixels in [0, 1] (channels, rows, columns) and codes of d
// elements: linear q -> d and ReLU, `depth` times (linear d -> d, batch norm with fixed statistics,
// ReLU), plus the positions, ReLU, linear d -> d. All tensors float32.
struct NeuracryptParameters {
  int patch = 4;        // p, height and width of a patch in pixels
  Tensor first_weight;  // [d,q]
  Tensor first_bias;    // [d]
  // With depth -1 there is nothing but the first linear layer, and what follows is undefined; with
  // depth 0 no hidden layer.
  Tensor hidden_weight;   // [depth,d,d]
  Tensor hidden_bias;     // [depth,d]
  Tensor mean, variance;  // [depth,d]: what batch norm takes off, and divides by the root of
  Tensor positions;       // [n,d]
  Tensor last_weight, last_bias;  // [d,d], [d]
};

// Tensors of zeros for a network of this form; of the statistics too. Usage Error if the patch is
// larger than the image, and for a network of more than 2^28 numbers.
NeuracryptParameters neuracrypt_form(const ImageShape& image, int patch, int width, int depth);

// What is drawn at random: every weight and bias uniform in [-bound, bound], which is 1 /
// sqrt(fan_in); the positions from N(0, 1), for which bound is 0.
struct NeuracryptPart {
  const char* name;
  Tensor* tensor;
  double bound;
};
std::vector<NeuracryptPart> random_parts(NeuracryptParameters& parameters);

// Fills mean and variance, layer by layer, with those of the codes of all patches of the images:
// float32 [B,C,H,W], 0..255, B >= 1.
void measure_neuracrypt(const ImageShape& image, const Tensor& images,
                        NeuracryptParameters& parameters);

// [B,C,H,W] in 0..255 -> codes [B,n,d] in the order of the patches, row by row; no shuffling.
Tensor neuracrypt_codes(const ImageShape& image, const NeuracryptParameters& parameters,
                        const Tensor& images);

// The codes of each image in an order of its own: [n,d]. Images are padded to whole patches. Error
// for parameters that do not belong together, or that are not finite.
std::unique_ptr<Transform> neuracrypt_transform(const ImageShape& image,
                                                const NeuracryptParameters& parameters);

}  // namespace ens
