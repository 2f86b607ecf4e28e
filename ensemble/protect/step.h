// SPDX-License-Identifier: Apache-2.0
// The steps of protections as code (for this folder and for what trains them). The step NAME lies
// in NAME.cc, which defines make_step_NAME(). steps.inc lists those that several protections use;
// those that are a protection of their own are the FEATURE_PROTECTIONs of proto/protections.inc.
#pragma once

#include <memory>

#include "ensemble/protect/protection.h"

namespace ens {

class Draws;  // ensemble/protect/draws.h
class ProtectionConfig;

class FeatureStep {
 public:
  // What training does in the step's place, with constants for the gradient.
  enum class Form {
    kAddConstant,  // adds the step's values, of a feature's shape, to every feature
    kAdd,          // adds what apply() makes of zeros; draws anew every time
    kScale,        // multiplies by what apply() makes of ones; draws anew every time
    kSelect,       // sets to zero what apply() sets to zero, which depends on the features
    kNormalise,    // scales each feature to the mean square power(), and adds what apply() does
                   // beyond that; draws anew every time
  };

  virtual ~FeatureStep() = default;
  virtual Form form() const = 0;
  virtual double power() const { return 0; }  // of kNormalise
  // Whether it can be applied to features of that shape.
  virtual bool fits(const Shape& /*feature*/) const { return true; }
  // features [B,C,H,W] (or [B,C]) float32, CPU, plain; changed in place. Error if they do not fit.
  virtual void apply(Tensor& features, Draws& draws) const = 0;
};

// Whether two features of one image differ.
bool draws_anew(const FeatureStep& step);

// Usage Error if this version does not know the step, or not with these values.
std::unique_ptr<FeatureStep> make_step(const ProtectionStep& step);

#define STEP(name) std::unique_ptr<FeatureStep> make_step_##name(const Tensor& values);
#define PROTECTION(...)
#define FEATURE_PROTECTION(kind, ...) \
  STEP(kind)                          \
  Tensor kind##_values(const ProtectionConfig& settings);
#include "ensemble/protect/steps.inc"
#include "proto/protections.inc"
#undef FEATURE_PROTECTION
#undef PROTECTION
#undef STEP

// For the steps: usage Error naming `step` unless all `values` are finite float32. On the CPU,
// plain.
Tensor finite_values(const Tensor& values, const char* step);
// The one number in `values`, from `low` to `high`.
float one_value(const Tensor& values, const char* step, float low, float high);

}  // namespace ens
