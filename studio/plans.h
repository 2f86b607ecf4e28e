// SPDX-License-Identifier: Apache-2.0
// What a browser's request for a job means as a command.
#pragma once

#include "studio/index.h"
#include "studio/jobs.h"

namespace ens {

// Refusal, or a configuration's usage Error, if it cannot be done.
JobPlan plan_job(const studio::JobRequest& request, const Index& index);

}  // namespace ens
