// SPDX-License-Identifier: Apache-2.0
// Means of the public images, for the floors of every table.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "nn/data/dataset.h"

namespace ens {

// The mean of all images, or of those with the label (of all, if none has it): [channels * height *
// width] in [0, 1]. Error if there are no images.
std::vector<float> mean_image(const Dataset& data, std::optional<int32_t> label = {});

}  // namespace ens
