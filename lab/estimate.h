// SPDX-License-Identifier: Apache-2.0
// What a cell of a sweep will cost: time from training steps measured on this machine, memory from
// the shapes of its networks. Estimates, good to a factor of two.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nn/models/model.h"
#include "proto/config.h"

namespace ens {

class Estimator {
 public:
  struct Attack {
    double seconds = 0;
    double seconds_per_image = 0;  // of AttackCost
  };
  struct Cell {
    double stage1_seconds = 0, stage2_seconds = 0;      // of compute on one thread
    double stage1_per_image = 0, stage2_per_image = 0;  // likewise
    std::map<std::string, Attack> attacks;
    double gigabytes = 0;
  };
  // The first call for a network measures a few training steps of it. The data set must be there.
  Cell estimate(const RunConfig& config, const std::vector<std::string>& attacks);

 private:
  struct Speed {
    double net = 0, decoder = 0, adversary = 0;  // seconds to train on one image, one thread
  };
  static Speed measure(const RunConfig& config, const ModelSpec& spec, Module& net, Rng& rng);

  std::map<std::string, Speed> measured_;
};

}  // namespace ens
