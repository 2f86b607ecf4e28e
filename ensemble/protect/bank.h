// SPDX-License-Identifier: Apache-2.0
// Shredder's bank (Mireshghallah et al., ASPLOS 2020): several tensors of a feature's shape, one of
// which, each equally likely, is drawn anew for each image and added to its feature or multiplies
// it.
#pragma once

#include "ensemble/protect/step.h"

namespace ens {

class Bank : public FeatureStep {
 public:
  // `values`: of a feature's shape with one axis more in front. `form`: kAdd or kScale.
  Bank(const Tensor& values, const char* step, Form form);
  Form form() const override { return form_; }
  bool fits(const Shape& feature) const override;
  void apply(Tensor& features, Draws& draws) const override;

 private:
  Tensor bank_;
  Form form_;
};

}  // namespace ens
