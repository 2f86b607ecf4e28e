// SPDX-License-Identifier: Apache-2.0
// Reference classifiers, trained once for each data set.
#pragma once

#include <functional>
#include <memory>

#include "attacks/core/reference_classifier.h"
#include "lab/datasets.h"
#include "proto/config.h"

namespace ens {

// The one for that part of `config`'s data and attack.reference_images, trained at the first call
// and kept to the end of the process; null if there are none to train on. Thread-safe: who comes
// second waits.
std::shared_ptr<const ReferenceClassifier> shared_reference(
    const RunConfig& config, const std::function<void(int64_t images)>& on_step,
    DataPart part = DataPart::kTrain);

}  // namespace ens
