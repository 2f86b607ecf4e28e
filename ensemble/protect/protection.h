// What the edge does to a smashed feature before it is sent. One file each, chosen by
// configuration. Plain C++ on CPU tensors: the edge links this and no training code.
#pragma once

#include <memory>

#include "nn/core/tensor.h"

namespace ens {

class Protection {
 public:
  virtual ~Protection() = default;
  // features [B,C,H,W] float32, CPU, plain; changed in place. Thread-safe.
  virtual void apply(Tensor& features) const = 0;
};

// Adds the same secret noise [C,H,W] to every feature (arXiv 2401.10859, eq. 2).
std::unique_ptr<Protection> fixed_noise(Tensor noise);

}  // namespace ens
