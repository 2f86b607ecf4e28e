// SPDX-License-Identifier: Apache-2.0
#include "lab/references.h"

#include <map>
#include <mutex>
#include <string>

#include "ensemble/model/precision.h"
#include "experiment/setup.h"
#include "lab/datasets.h"

namespace ens {

std::shared_ptr<const ReferenceClassifier> shared_reference(
    const RunConfig& config, const std::function<void(int64_t images)>& on_step, DataPart part) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const ReferenceClassifier>> trained;
  const int64_t images = config.attack().reference_images();
  if (images == 0) return nullptr;
  const std::string key = to_text(config.data()) + "seed: " + std::to_string(config.seed()) +
                          " images: " + std::to_string(images) + " device: " + config.device() +
                          " dtype: " + config.dtype() +
                          " part: " + std::to_string(static_cast<int>(part));
  std::lock_guard lock(mutex);
  std::shared_ptr<const ReferenceClassifier>& entry = trained[key];
  if (!entry) {
    const Device device = parse_devices(config.device())[0];
    entry = std::make_shared<const ReferenceClassifier>(
        *shared_dataset(config, part), images, device, choose_dtype(config.dtype(), device),
        config.seed(), on_step);
  }
  return entry;
}

}  // namespace ens
