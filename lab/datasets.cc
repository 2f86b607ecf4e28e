#include "lab/datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "ensemble/train/setup.h"

namespace ens {

namespace {

// The client's images first, then those that are set aside; the same order for every seed.
Dataset divided(const Dataset& all, int64_t set_aside, DataPart part) {
  if (part == DataPart::kTrainAndPublic) return all;
  std::vector<int64_t> order = Rng(0, "images set aside").permutation(all.count());
  const auto cut = order.end() - set_aside;
  std::vector<int64_t> wanted(part == DataPart::kPublic ? cut : order.begin(),
                              part == DataPart::kPublic ? order.end() : cut);
  std::ranges::sort(wanted);
  return all.pick(wanted);
}

Dataset load(const RunConfig& config, DataPart part) {
  const DataSplit split = part == DataPart::kTest ? DataSplit::kTest : DataSplit::kTrain;
  Dataset all = load_dataset(data_options(config, split), split);
  if (part == DataPart::kTest) return all;
  return divided(all, std::min(config.data().public_images(), all.count() / 5), part);
}

}  // namespace

std::shared_ptr<const Dataset> shared_dataset(const RunConfig& config, DataPart part) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const Dataset>> loaded;
  const std::string key = fmt::format("{}seed: {} part: {}", to_text(config.data()), config.seed(),
                                      static_cast<int>(part));
  std::lock_guard lock(mutex);
  std::weak_ptr<const Dataset>& entry = loaded[key];
  std::shared_ptr<const Dataset> data = entry.lock();
  if (!data) {
    data = std::make_shared<const Dataset>(load(config, part));
    entry = data;
    static std::set<std::string> said;
    for (const std::string& warning : data->warnings) {
      if (said.insert(warning).second) fmt::print(stderr, "warning: {}\n", warning);
    }
  }
  return data;
}

Dataset draw_images(const RunConfig& config, DataPart part, int64_t count) {
  const auto data = shared_dataset(config, part);
  if (count == 0 || count >= data->count()) return *data;
  Rng rng(config.seed(), "calibration");
  return data->draw(count, rng);
}

}  // namespace ens
