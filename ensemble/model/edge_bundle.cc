// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/edge_bundle.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "ensemble/model/bundle_file.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"

namespace ens {

using namespace bundle_file;

namespace {

constexpr const char* kSelector = "selector";
constexpr const char* kBlindedCells = "blinded_cells";
// Format 2: dropout, then a noise or a bank of them, then fresh noise.
constexpr const char* kProtection = "protection";  // fresh noise's sigma, dropout
constexpr const char* kNoise = "noise";            // only if there is one
// Format 3, one tensor for each step: "protection/00/dropout", "protection/01/..."
constexpr const char* kSteps = "protection/";

std::string step_prefix(size_t index) { return fmt::format("{}{:02}/", kSteps, index); }

bool has_steps(const Checkpoint& checkpoint) { return checkpoint.number("format") > kFormat; }

// In format 2 if it can say it, so that programs of that version open the bundle.
void put_protection(Checkpoint& checkpoint, const ProtectionSpec& spec) {
  size_t i = 0;
  const auto next_is = [&](const char* name) { return i < spec.size() && spec[i].name == name; };
  float sigma = 0, dropout = 0;
  Tensor noise;
  if (next_is("dropout")) dropout = spec[i++].values.item();
  if (next_is("fixed_noise") || next_is("noise_bank")) noise = spec[i++].values;
  if (next_is("fresh_noise")) sigma = spec[i++].values.item();
  if (i == spec.size() && !has_steps(checkpoint)) {
    checkpoint.tensors[kProtection] = Tensor::from({sigma, dropout}, {2});
    if (noise.defined()) checkpoint.tensors[kNoise] = noise;
    return;
  }
  if (!has_steps(checkpoint)) checkpoint.numbers["format"] = kFormatOfSteps;
  for (i = 0; i < spec.size(); ++i) {
    checkpoint.tensors[step_prefix(i) + spec[i].name] = spec[i].values;
  }
}

ProtectionSpec get_protection_of_format_2(const Checkpoint& checkpoint) {
  const Tensor& numbers = checkpoint.tensor(kProtection);
  if (numbers.dtype() != Dtype::kF32 || !(numbers.shape() == Shape{2})) {
    fail("the protection is damaged", checkpoint.file, "write the bundle again");
  }
  const float sigma = numbers.data<float>()[0], dropout = numbers.data<float>()[1];
  ProtectionSpec spec;
  if (dropout != 0) spec.push_back({"dropout", Tensor::from({dropout}, {1})});
  if (const auto noise = checkpoint.tensors.find(kNoise); noise != checkpoint.tensors.end()) {
    const bool bank = noise->second.rank() % 2 == 0;  // [K,C,H,W] or [K,C]
    spec.push_back({bank ? "noise_bank" : "fixed_noise", noise->second});
  }
  if (sigma != 0) spec.push_back({"fresh_noise", Tensor::from({sigma}, {1})});
  return spec;
}

ProtectionSpec get_steps(const Checkpoint& checkpoint) {
  ProtectionSpec spec;
  for (auto it = checkpoint.tensors.lower_bound(kSteps);
       it != checkpoint.tensors.end() && it->first.starts_with(kSteps); ++it) {
    const std::string prefix = step_prefix(spec.size());
    if (!it->first.starts_with(prefix)) {
      fail("the protection is damaged", checkpoint.file, "write the bundle again");
    }
    spec.push_back({it->first.substr(prefix.size()), it->second});
    if (!is_known_step(spec.back().name)) {
      fail(written_by_newer(checkpoint, "needs protection '" + spec.back().name + "'"),
           checkpoint.file, "use that version");
    }
  }
  return spec;
}

ProtectionSpec get_protection(const Checkpoint& checkpoint, const Shape& feature) {
  const ProtectionSpec spec =
      has_steps(checkpoint) ? get_steps(checkpoint) : get_protection_of_format_2(checkpoint);
  try {
    check(spec, feature);
  } catch (const Error& error) {
    fail(error.what(), checkpoint.file, "write the bundle again");
  }
  return spec;
}

}  // namespace

void blind_cells(EdgeBundle& bundle, int cells, const Tensor& images) {
  if (cells < 1 || cells > bundle.info.split.head || bundle.blinded) {
    usage_fail(fmt::format("{} blinded cells of a head of {}", cells, bundle.info.split.head),
               "offload.cells", "train with model.head_cells of that many");
  }
  const std::vector<std::string> names = cell_names(bundle.info.model);
  Graph graph;
  graph.input = graph.output = graph.add_value(bundle.info.model.input_shape());
  auto rest = std::make_shared<Sequential>();
  for (size_t i = 0; i < bundle.head->size(); ++i) {
    const ModulePtr& cell = (*bundle.head)[i];
    if (i < static_cast<size_t>(cells)) {
      graph.output = cell->lower(graph, graph.output);
    } else {
      rest->push(names[i], cell);
    }
  }
  Graph fused = fuse(graph);
  set_input_ranges(fused, input_ranges(fused, images));
  bundle.blinded = BlindedCells{cells, quantize(fused)};
  bundle.head = rest;
}

void write_edge_bundle(const std::filesystem::path& file, const EdgeBundle& bundle) {
  check(bundle.protection, smashed_shape(bundle.info.model, bundle.info.split));
  Checkpoint checkpoint;
  checkpoint.kind = "edge";
  put_info(checkpoint, bundle.info);
  put_module(checkpoint, "head", *bundle.head);
  put_module(checkpoint, "tail", *bundle.tail);
  if (bundle.blinded) {
    checkpoint.numbers["format"] = kFormatBlindedCells;
    checkpoint.numbers[kBlindedCells] = bundle.blinded->count;
    put_int8_net(checkpoint, bundle.blinded->net);
  }
  put_protection(checkpoint, bundle.protection);
  const auto& selected = bundle.selector.selected();
  checkpoint.tensors[kSelector] =
      Tensor::from_labels(std::vector<int32_t>(selected.begin(), selected.end()));
  put_class_names(checkpoint, bundle.class_names, file);
  write_checkpoint(file, checkpoint, /*secret=*/true);
}

EdgeBundle read_edge_bundle(const std::filesystem::path& file) {
  return read_edge_bundle(read_checkpoint(file, "edge"));
}

EdgeBundle read_edge_bundle(const Checkpoint& checkpoint) {
  const BundleInfo info = get_info(checkpoint);
  if (checkpoint.number("format") == kFormatBlinded) {
    fail("this is a bundle of blinded inference", checkpoint.file,
         "use it with ensembler-edge --worker, or name the run's edge.h5");
  }
  if (info.split.head < 1) {
    fail("the bundle has no head and no tail", checkpoint.file, "write the bundle again");
  }
  const Tensor& selected = checkpoint.tensor(kSelector);
  if (selected.rank() != 1) fail("the selector is damaged", checkpoint.file);
  const auto indices = selected.span<int32_t>();
  Selector selector(info.nets, std::vector<int>(indices.begin(), indices.end()));

  std::optional<BlindedCells> blinded;
  size_t count = 1;  // the selector
  if (checkpoint.number("format") == kFormatBlindedCells) {
    const int64_t cells = checkpoint.number(kBlindedCells);
    if (cells < 1 || cells > info.split.head) {
      fail(fmt::format("{} blinded cells of a head of {}", cells, info.split.head), checkpoint.file,
           "write the bundle again");
    }
    blinded.emplace(BlindedCells{static_cast<int>(cells), {}});
    count += get_int8_net(checkpoint, info.model, blinded->count, blinded->net);
  }
  const int first = blinded ? blinded->count : 0;
  Rng rng = Rng::blank();
  EdgeBundle bundle{.info = info,
                    .class_names = get_class_names(checkpoint, info.model),
                    .head = build_cells(info.model, first, info.split.head, rng),
                    .tail = build_tail(info.model, info.split, rng, selector.count()),
                    .selector = std::move(selector),
                    .protection = get_protection(checkpoint, smashed_shape(info.model, info.split)),
                    .blinded = std::move(blinded)};
  count += has_steps(checkpoint) ? bundle.protection.size() : 1 + checkpoint.tensors.count(kNoise);
  count += get_module(checkpoint, "head", *bundle.head);
  count += get_module(checkpoint, "tail", *bundle.tail);
  check_count(checkpoint, count);
  return bundle;
}

}  // namespace ens
