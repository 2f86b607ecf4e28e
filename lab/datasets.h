// SPDX-License-Identifier: Apache-2.0
// Data sets in memory, shared by everything that uses the same one at the same time.
#pragma once

#include <memory>
#include <string>

#include "nn/data/dataset.h"
#include "proto/config.h"

namespace ens {

// Whose images: the client's, on which it trains; those of the training split that were set aside
// for attackers (data.public_images), the same ones for every seed of the run; both; or the test
// split.
enum class DataPart { kTrain, kPublic, kTrainAndPublic, kTest };

// What `config.data` describes; loaded once for as long as anyone holds it. Thread-safe. kPublic
// has no images if none were set aside.
std::shared_ptr<const Dataset> shared_dataset(const RunConfig& config, DataPart part);
// Which part attack.public_source names.
DataPart public_part(const AttackConfig& config);
// Its images, for the attacks on the run in the folder `run`. Usage Error if there are none, since
// none were set aside.
std::shared_ptr<const Dataset> public_pool(const RunConfig& config, const std::string& run);
// So many of a part's images, drawn by the run's seed; 0: all.
Dataset draw_images(const RunConfig& config, DataPart part, int64_t count);

}  // namespace ens
