// What the edge does to a smashed feature before it is sent, as data and as code. Plain C++ on CPU
// tensors: the edge links this and no training code. What trains a protection sits beside it in a
// *_train file, in a library of its own.
#pragma once

#include <memory>

#include "nn/core/tensor.h"

namespace ens {

// A protection as it lies in the edge bundle. Unset parts do nothing; the rest is applied in the
// order dropout, noise, fresh noise.
struct ProtectionSpec {
  // Float32. Of a feature's shape ([C,H,W] or [C]): added to every feature. One axis more
  // ([K,C,H,W] or [K,C]): a bank, of which every image gets one at random. Undefined: none.
  Tensor noise;
  float fresh_sigma = 0;  // > 0: standard deviation of Gaussian noise drawn anew for every image
  // > 0: each element is set to zero with this probability, the rest is scaled by 1/(1 - dropout),
  // anew for every image. Below 1.
  float dropout = 0;

  bool has_bank() const { return noise.defined() && noise.rank() % 2 == 0; }
};

class Protection {
 public:
  virtual ~Protection() = default;
  // features [B,C,H,W] (or [B,C]) float32, CPU, plain; changed in place. Thread-safe. Error if they
  // do not fit the protection.
  virtual void apply(Tensor& features) const = 0;
};

// Everything in `spec`, in order; does nothing for an empty one. Usage Error for an impossible
// spec. Draws come from a generator that every call seeds from the operating system's cryptographic
// source.
std::unique_ptr<Protection> make_protection(const ProtectionSpec& spec);

// Usage Error unless the spec can be applied to features of shape `feature`: shapes, finite
// numbers, ranges. Says nothing of the values.
void check(const ProtectionSpec& spec, const Shape& feature);

// What somebody who knows the spec but not the draws must expect to be added: the noise itself, or
// the mean of its bank; undefined if there is none. Fresh noise and dropout leave the mean as it
// is.
Tensor mean_noise(const ProtectionSpec& spec);

// ---- the parts

// Adds the same secret noise [C,H,W] to every feature (arXiv 2401.10859, eq. 2).
std::unique_ptr<Protection> fixed_noise(Tensor noise);
// Adds one of bank [K,C,H,W], each equally likely, to each image's feature (Shredder, ASPLOS 2020).
std::unique_ptr<Protection> noise_bank(Tensor bank);
// Adds N(0, sigma^2), independent for every element of every image.
std::unique_ptr<Protection> fresh_noise(float sigma);
// Sets each element to zero with probability p and scales the rest by 1/(1-p).
std::unique_ptr<Protection> dropout_features(float p);

}  // namespace ens
