// SPDX-License-Identifier: Apache-2.0
// Blind source separation: images from as many linear mixtures of them, without the mixing matrix.
#pragma once

#include <cstdint>
#include <functional>

#include "attacks/shares/views.h"
#include "nn/core/tensor.h"

namespace ens {

// mixtures [S,C,H,W] float32: each a linear combination of S independent
// sources, of which `noises` are Gaussian. Independent components of the differences between
// neighbouring pixels (FastICA with tanh, symmetric, Hyvarinen 1999; the best of five starts by
// negentropy), whose unmixing matrix is applied to the mixtures; the `noises` components nearest
// to a Gaussian are dropped. -> [S - noises,C,H,W]. Scale, sign and order are not determined; with
// `orthogonal`, the mixing matrix is orthogonal, and the scale is the sources' own. Error if the
// mixtures are not independent.
Tensor separate(const Tensor& mixtures, int noises, bool orthogonal, Rng& rng);

// Components, which are linear in the network's normalised inputs, as images in [0, 1]: shifted
// into the middle of the range of pixels and, without `scale_known`, stretched to all of it. Their
// sign stays open.
Tensor components_to_images(const Tensor& components, const ImageCoding& coding, bool scale_known);

// The images [M,C,H,W] of a coalition's view, from those of each virtual batch g: [K,C,H,W].
Tensor from_virtual_batches(const WorkerView& view, const AttackContext& context,
                            const std::function<Tensor(int64_t g)>& images_of_batch);

// For scoring alone: `found` [M,C,H,W], where image k * G + g is of virtual batch g, with the
// images of each virtual batch in the order, and each in the sign, in which they correlate most
// with `truth`: what a person sees at a glance, and the attack cannot know.
Tensor as_in(const Tensor& truth, const Tensor& found, int inputs);

// The mean over the images of |correlation| with the original.
double mean_correlation(const Tensor& truth, const Tensor& found);

// share-gram: how well the shares of real numbers give the products of pixels, sum_k x_k[i] x_k[j]
// about each image's mean, without the matrix: an orthogonal one leaves sums over the shares as
// they are, and the largest eigenvector is the noise, with its mean. observed: [S] of [G,C,H,W];
// truth: the integers [K * G,C,H,W]. The mean over the virtual batches of the correlation between
// both matrices on `pixels` random pixels.
double gram_correlation(const std::vector<Tensor>& observed, const Tensor& truth, int64_t pixels,
                        Rng& rng);

}  // namespace ens
