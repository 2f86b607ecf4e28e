// Data sets in memory, shared by everything that uses the same one at the same time.
#pragma once

#include <memory>

#include "nn/data/dataset.h"
#include "proto/config.h"

namespace ens {

// The split that `config.data` describes; loaded once for as long as anyone holds it. Thread-safe.
std::shared_ptr<const Dataset> shared_dataset(const RunConfig& config, DataSplit split);

}  // namespace ens
