// SPDX-License-Identifier: Apache-2.0
#include "lab/datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "base/error.h"
#include "experiment/setup.h"

namespace ens {

namespace {

// Both parts of a training split. They live together, so that it is read once for both.
struct TrainingSplit {
  Dataset client, set_aside;
};

TrainingSplit divide(const Dataset& all, int64_t set_aside) {
  // The same order for every seed.
  const std::vector<int64_t> order = Rng(0, "images set aside").permutation(all.count());
  std::vector<int64_t> client(order.begin(), order.end() - set_aside);
  std::vector<int64_t> rest(order.end() - set_aside, order.end());
  std::ranges::sort(client);
  std::ranges::sort(rest);
  return {all.pick(client), all.pick(rest)};
}

}  // namespace

std::shared_ptr<const Dataset> shared_dataset(const RunConfig& config, DataPart part) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const Dataset>> loaded;
  const auto entry = [&](DataPart of) -> std::weak_ptr<const Dataset>& {
    return loaded[fmt::format("{}seed: {} part: {}", to_text(config.data()), config.seed(),
                              static_cast<int>(of))];
  };
  std::lock_guard lock(mutex);
  std::shared_ptr<const Dataset> data = entry(part).lock();
  if (data) return data;
  const DataSplit split = part == DataPart::kTest ? DataSplit::kTest : DataSplit::kTrain;
  Dataset all = load_dataset(data_options(config, split), split);
  static std::set<std::string> said;
  for (const std::string& warning : all.warnings) {
    if (said.insert(warning).second) fmt::print(stderr, "warning: {}\n", warning);
  }
  if (part == DataPart::kTest || part == DataPart::kTrainAndPublic) {
    entry(part) = data = std::make_shared<const Dataset>(std::move(all));
    return data;
  }
  const auto parts = std::make_shared<const TrainingSplit>(
      divide(all, std::min(config.data().public_images(), all.count() / 5)));
  const std::shared_ptr<const Dataset> client(parts, &parts->client);
  const std::shared_ptr<const Dataset> set_aside(parts, &parts->set_aside);
  entry(DataPart::kTrain) = client;
  entry(DataPart::kPublic) = set_aside;
  return part == DataPart::kTrain ? client : set_aside;
}

DataPart public_part(const AttackConfig& config) {
  return config.public_source() == "disjoint" ? DataPart::kPublic : DataPart::kTrain;
}

std::shared_ptr<const Dataset> public_pool(const RunConfig& config, const std::string& run) {
  auto pool = shared_dataset(config, public_part(config.attack()));
  if (pool->count() == 0) {
    usage_fail("no images were set aside for attackers when this run was trained", run,
               "set attack.public_source=training, or train again with data.public_images above 0");
  }
  return pool;
}

Dataset draw_images(const RunConfig& config, DataPart part, int64_t count) {
  const auto data = shared_dataset(config, part);
  if (count == 0 || count >= data->count()) return *data;
  Rng rng(config.seed(), "calibration");
  return data->draw(count, rng);
}

}  // namespace ens
