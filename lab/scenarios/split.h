// SPDX-License-Identifier: Apache-2.0
// Split inference as a scenario: trainings of scenarios/split_training.h, attacks of
// scenarios/split_attacks.h.
#pragma once

#include "experiment/scenario.h"

namespace ens {

const Scenario& split_scenario();

}  // namespace ens
