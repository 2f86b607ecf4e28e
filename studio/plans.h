// SPDX-License-Identifier: Apache-2.0
// What a browser's request for a job means as a command.
#pragma once

#include "studio/index.h"
#include "studio/jobs.h"
#include "studio/sets.h"

namespace ens {

// The small ready-made runs, a sweep each.
std::vector<JobPlan> plan_demo(const Index& index);
// Refusal, or a configuration's usage Error, if it cannot be done.
JobPlan plan_job(const studio::JobRequest& request, const Index& index, const DisguisedSets& sets);
// The networks that a cloud trains on disguised sets.
extern const std::vector<std::string> kSetClassifiers;

}  // namespace ens
