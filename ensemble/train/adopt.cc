// Sharing stage 1 between runs (trainer.h).
#include <algorithm>
#include <map>

#include "base/error.h"
#include "ensemble/model/precision.h"
#include "ensemble/train/setup.h"
#include "ensemble/train/train_net.h"
#include "ensemble/train/trainer.h"
#include "nn/io/checkpoint.h"

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

void take(const fs::path& from, const fs::path& to, bool same_split,
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

}  // namespace

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

  const FeatureRecipe recipe = feature_recipe(config);
  if (recipe.sigma > 0) id.mutable_ensemble()->set_sigma(recipe.sigma);
  ProtectionConfig& p = *id.mutable_protection();
  if (recipe.fresh) p.set_fresh_noise(true);
  if (recipe.dropout > 0) p.mutable_dr()->set_dropout(recipe.dropout);
  if (recipe.distance_weight > 0) p.mutable_nopeek()->set_distance_weight(recipe.distance_weight);
  if (recipe.adversary_weight > 0)
    p.mutable_ressfl()->set_adversary_weight(recipe.adversary_weight);
  if (config.protection().kind() == "dr_ensemble") {  // no nets of their own
    p.set_kind("dr_ensemble");
    id.mutable_ensemble()->set_nets(config.ensemble().nets());
  } else {
    id.mutable_model()->clear_tail_cells();
    if (recipe.plain()) id.mutable_model()->clear_head_cells();
  }
  return to_text(id);
}

int adopt_stage1(const RunConfig& config, const fs::path& run, const fs::path& donor) {
  if (!is_run(run)) fail("not a run folder yet", run.string(), "open its RunDir first");
  if (!fs::exists(donor / "DONE") || config.protection().kind() == "dr_ensemble") return 0;
  RunConfig theirs;
  read_run_config(donor / "config.txtpb", theirs);
  complete(theirs);
  if (stage1_identity(theirs) != stage1_identity(config)) return 0;
  const bool same_split = config.model().head_cells() == theirs.model().head_cells() &&
                          config.model().tail_cells() == theirs.model().tail_cells();
  const auto parts = parts_of_cells(config);
  const int64_t epochs = config.stage1().epochs();
  int taken = 0;
  for (int i = 0; i < std::min(config.ensemble().nets(), theirs.ensemble().nets()); ++i) {
    const std::string file = "stage1/net" + std::to_string(i) + ".h5";
    if (complete_in(run / file, epochs) || !complete_in(donor / file, epochs)) continue;
    fs::create_directories(run / "stage1");
    take(donor / file, run / file, same_split, parts);
    ++taken;
  }
  return taken;
}

}  // namespace ens
