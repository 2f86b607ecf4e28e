#include "lab/datasets.h"

#include <fmt/format.h>

#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "ensemble/train/setup.h"

namespace ens {

std::shared_ptr<const Dataset> shared_dataset(const RunConfig& config, DataSplit split) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const Dataset>> loaded;
  const std::string key = to_text(config.data()) + "seed: " + std::to_string(config.seed()) +
                          (split == DataSplit::kTrain ? " train" : " test");
  std::lock_guard lock(mutex);
  std::weak_ptr<const Dataset>& entry = loaded[key];
  std::shared_ptr<const Dataset> data = entry.lock();
  if (!data) {
    data = std::make_shared<const Dataset>(load_dataset(data_options(config, split), split));
    entry = data;
    static std::set<std::string> said;
    for (const std::string& warning : data->warnings) {
      if (said.insert(warning).second) fmt::print(stderr, "warning: {}\n", warning);
    }
  }
  return data;
}

}  // namespace ens
