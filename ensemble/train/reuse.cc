// SPDX-License-Identifier: Apache-2.0
// Sharing stage 1 between runs (trainer.h).
#include <algorithm>
#include <map>

#include "base/error.h"
#include "ensemble/model/precision.h"
#include "ensemble/train/protection_training.h"
#include "ensemble/train/trainer.h"
#include "experiment/setup.h"
#include "nn/io/checkpoint.h"
#include "proto/protections.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// Cell name -> "head", "body" or "tail".
std::map<std::string, std::string> parts_of_cells(const RunConfig& config) {
  const std::vector<std::string> cells = cell_names(model_spec(config.model()));
  const Split split = split_of(config);
  std::map<std::string, std::string> parts;
  for (size_t i = 0; i < cells.size(); ++i) {
    parts[cells[i]] = i < static_cast<size_t>(split.head)                   ? "head"
                      : i + static_cast<size_t>(split.tail) >= cells.size() ? "tail"
                                                                            : "body";
  }
  return parts;
}

// "net/body.stage1.0.conv1.weight" -> "net/head.stage1.0.conv1.weight" where stage1 is the head's.
// What belongs to no cell keeps its name.
std::string renamed(const std::string& name, const std::map<std::string, std::string>& parts) {
  const size_t part = name.find('/') + 1;
  const size_t cell = name.find('.', part) + 1;
  const size_t rest = name.find('.', cell);
  if (part == 0 || cell == 0 || rest == std::string::npos) return name;
  const std::string old = name.substr(part, cell - 1 - part);
  const auto place = parts.find(name.substr(cell, rest - cell));
  if (place == parts.end() || (old != "head" && old != "body" && old != "tail")) return name;
  return name.substr(0, part) + place->second + name.substr(cell - 1);
}

bool complete_in(const fs::path& file, int64_t epochs) {
  return fs::exists(file) && epochs_done(file) == epochs;
}

void reuse_net(const fs::path& from, const fs::path& to, bool same_split,
               const std::map<std::string, std::string>& parts) {
  if (same_split) {
    std::error_code error;
    fs::remove(to, error);  // a net with fewer epochs
    fs::create_hard_link(from, to, error);
    if (!error) return;  // checkpoints are replaced, never written into
  }
  Checkpoint c = read_checkpoint(from, "training");
  std::map<std::string, Tensor> tensors;
  for (auto& [name, tensor] : c.tensors) tensors[renamed(name, parts)] = tensor;
  c.tensors = std::move(tensors);
  write_checkpoint(to, c, /*secret=*/true);
}

// Whether nets of stage 1 are trained as without protection; adds to `id` what they depend on.
bool trains_plainly(const RunConfig& config, RunConfig& id) {
  make_protection_training(config)->stage1_settings(config, id);
  return !id.has_ensemble() && !id.has_protection();
}

}  // namespace

void check_importable(const RunConfig& config) {
  RunConfig id;
  const bool plain = trains_plainly(config, id);
  if (config.ensemble().common_head()) {
    usage_fail("imported nets have heads of their own", "ensemble.common_head", "leave it out");
  }
  if (trains_jointly(config) ||
      (!plain && make_protection_training(config)->nets_in_stage2(config) == 0)) {
    usage_fail(
        "'" + config.protection().kind() +
            "' is trained into the network, and an imported one is trained already",
        "protection.kind",
        "choose one that protects a trained network, such as additive noise, a bank of noises "
        "or an ensemble");
  }
}

std::string stage1_identity(const RunConfig& config) {
  RunConfig id;
  id.set_seed(config.seed());
  const Device device = parse_devices(config.device())[0];
  id.set_device(device.str());
  if (device.type == Device::Type::kCuda) id.set_tf32(config.tf32());
  id.set_dtype(name(choose_dtype(config.dtype(), device)));
  *id.mutable_data() = config.data();
  id.mutable_data()->clear_root();
  id.mutable_data()->clear_test_limit();
  if (!config.data().name().starts_with("folder:")) id.mutable_data()->clear_fit();
  *id.mutable_model() = config.model();
  *id.mutable_stage1() = config.stage1();
  id.mutable_stage1()->clear_side_by_side();

  const bool plain = trains_plainly(config, id);
  if (trains_jointly(config)) {  // no nets of their own
    id.mutable_protection()->set_kind(config.protection().kind());
    id.mutable_ensemble()->set_nets(config.ensemble().nets());
  } else {
    id.mutable_model()->clear_tail_cells();
    if (plain) id.mutable_model()->clear_head_cells();
  }
  return to_text(id);
}

int reuse_stage1(const RunConfig& config, const fs::path& run, const fs::path& source_run) {
  if (!is_run(run)) fail("not a run folder yet", run.string(), "open its RunDir first");
  if (!fs::exists(source_run / "DONE") || trains_jointly(config)) return 0;
  const RunConfig theirs = read_run_config(source_run);
  if (stage1_identity(theirs) != stage1_identity(config)) return 0;
  const bool same_split = config.model().head_cells() == theirs.model().head_cells() &&
                          config.model().tail_cells() == theirs.model().tail_cells();
  const auto parts = parts_of_cells(config);
  const int64_t epochs = config.stage1().epochs();
  int reused = 0;
  for (int i = 0; i < std::min(config.ensemble().nets(), theirs.ensemble().nets()); ++i) {
    const std::string file = "stage1/net" + std::to_string(i) + ".h5";
    if (complete_in(run / file, epochs) || !complete_in(source_run / file, epochs)) continue;
    fs::create_directories(run / "stage1");
    reuse_net(source_run / file, run / file, same_split, parts);
    ++reused;
  }
  return reused;
}

}  // namespace ens
