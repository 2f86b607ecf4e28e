// SPDX-License-Identifier: Apache-2.0
// Memory that this process could still take.
#pragma once

namespace ens {

// Bytes: what the system could give without swapping, and no more than the container's limit
// (cgroup v1 and v2) leaves. An estimate; 4 GB if the system does not say.
double available_memory();

}  // namespace ens
