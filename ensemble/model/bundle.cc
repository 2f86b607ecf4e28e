// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/bundle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/strings.h"
#include "ensemble/model/bundle_file.h"
#include "include/ensembler/version.h"
#include "nn/plan/float8.h"

namespace ens {
namespace bundle_file {
namespace {

constexpr int64_t kMaxNets = 4096;

std::string from_hex(const std::string& hex, const std::string& file) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    uint8_t byte = 0;
    if (std::from_chars(&hex[i], &hex[i] + 2, byte, 16).ptr != &hex[i] + 2) break;
    bytes.push_back(static_cast<char>(byte));
  }
  if (bytes.size() != 32 || hex.size() != 64) fail("the fingerprint is not 64 hex digits", file);
  return bytes;
}

// Written by fmt: the shortest text that reads back as the same float.
std::vector<float> parse_floats(const std::string& text, const std::string& file) {
  std::vector<float> values;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    float value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc()) fail("'" + text + "' is not a list of numbers", file);
    values.push_back(value);
    at = next < end && *next == ',' ? next + 1 : next;
    if (at == next && at < end) fail("'" + text + "' is not a list of numbers", file);
  }
  return values;
}

int small(const Checkpoint& checkpoint, const char* name) {
  const int64_t value = checkpoint.number(name);
  if (value < 0 || value > (1 << 20)) {
    fail(fmt::format("{} = {} is impossible", name, value), checkpoint.file);
  }
  return static_cast<int>(value);
}

}  // namespace

void put_info(Checkpoint& checkpoint, const BundleInfo& info) {
  checkpoint.numbers["format"] = kFormat;
  checkpoint.texts["version"] = ENSEMBLER_VERSION;
  checkpoint.numbers["nets"] = info.nets;
  checkpoint.numbers["width"] = info.model.width;
  checkpoint.numbers["classes"] = info.model.classes;
  checkpoint.numbers["channels"] = info.model.channels;
  checkpoint.numbers["image_size"] = info.model.image_size;
  checkpoint.numbers["stem_pool"] = info.model.stem_pool;
  const ModelSpec usual;
  const auto put_unusual = [&](const char* name, int value, int usual_value) {
    if (value == usual_value) return;
    checkpoint.numbers[name] = value;
    checkpoint.numbers["format"] = kFormatOfModels;
  };
  put_unusual("stem_kernel", info.model.stem_kernel, usual.stem_kernel);
  put_unusual("hidden", info.model.hidden, usual.hidden);
  put_unusual("tokens", info.model.tokens, usual.tokens);
  if (info.split.head == 0 || info.model.image_width > 0) {
    checkpoint.numbers["image_width"] = info.model.image_width;
    checkpoint.numbers["format"] = kFormatWhole;
  }
  checkpoint.numbers["head_cells"] = info.split.head;
  checkpoint.numbers["tail_cells"] = info.split.tail;
  const std::string& architecture = info.model.architecture;
  if (architecture == "funnel" || architecture == "edge_only") {
    checkpoint.numbers["head_width"] = info.model.head_width;
  }
  if (architecture == "funnel") checkpoint.numbers["sent_channels"] = info.model.sent_channels;
  if (architecture == "thumbnail") checkpoint.numbers["thumbnail"] = info.model.thumbnail;
  checkpoint.texts["architecture"] = info.model.architecture;
  checkpoint.texts["mean"] = fmt::format("{}", fmt::join(info.model.mean, ","));
  checkpoint.texts["stddev"] = fmt::format("{}", fmt::join(info.model.stddev, ","));
  checkpoint.texts["data"] = info.data;
  if (info.fit) checkpoint.texts["fit"] = name(*info.fit);
  checkpoint.texts["fingerprint"] = to_hex(info.fingerprint);
}

std::string written_by_newer(const Checkpoint& checkpoint, const std::string& reason) {
  const auto version = checkpoint.texts.find("version");  // bundles of 0.1.0 need not say
  return fmt::format("written by a newer version{} ({})",
                     version == checkpoint.texts.end() ? "" : ", " + version->second, reason);
}

BundleInfo get_info(const Checkpoint& checkpoint) {
  const int64_t format = checkpoint.number("format");
  if (format > kFormatWhole) {
    fail(written_by_newer(checkpoint, fmt::format("bundle format {}", format)), checkpoint.file,
         "use that version");
  }
  if (format < kFormat) {
    fail(fmt::format("bundle format {} is too old", format), checkpoint.file,
         "use the program version that wrote it");
  }
  BundleInfo info;
  info.nets = small(checkpoint, "nets");
  info.model.width = small(checkpoint, "width");
  info.model.classes = small(checkpoint, "classes");
  info.model.channels = small(checkpoint, "channels");
  info.model.image_size = small(checkpoint, "image_size");
  info.model.stem_pool = small(checkpoint, "stem_pool") != 0;
  if (checkpoint.numbers.contains("stem_kernel")) {
    info.model.stem_kernel = small(checkpoint, "stem_kernel");
  }
  if (checkpoint.numbers.contains("hidden")) info.model.hidden = small(checkpoint, "hidden");
  if (checkpoint.numbers.contains("tokens")) info.model.tokens = small(checkpoint, "tokens");
  if (format == kFormatWhole) info.model.image_width = small(checkpoint, "image_width");
  info.split.head = small(checkpoint, "head_cells");
  info.split.tail = small(checkpoint, "tail_cells");
  info.model.architecture = checkpoint.text("architecture");
  const std::string& architecture = info.model.architecture;
  if (architecture == "funnel" || architecture == "edge_only") {
    info.model.head_width = small(checkpoint, "head_width");
  }
  if (architecture == "funnel") info.model.sent_channels = small(checkpoint, "sent_channels");
  if (architecture == "thumbnail") info.model.thumbnail = small(checkpoint, "thumbnail");
  info.model.mean = parse_floats(checkpoint.text("mean"), checkpoint.file);
  info.model.stddev = parse_floats(checkpoint.text("stddev"), checkpoint.file);
  info.data = checkpoint.text("data");
  if (const auto fit = checkpoint.texts.find("fit"); fit != checkpoint.texts.end()) {
    info.fit = parse_fit(fit->second, checkpoint.file);
  }
  info.fingerprint = from_hex(checkpoint.text("fingerprint"), checkpoint.file);
  if (info.nets < 1 || info.nets > kMaxNets) {
    fail(fmt::format("{} server nets", info.nets), checkpoint.file);
  }
  try {
    check(info.model, info.split);
  } catch (const Error& error) {
    fail(error.what(), checkpoint.file);
  }
  return info;
}

void put_class_names(Checkpoint& checkpoint, const std::vector<std::string>& names,
                     const std::filesystem::path& file) {
  std::string& lines = checkpoint.texts["class_names"];
  for (const std::string& name : names) {
    if (name.empty() || name.find('\n') != std::string::npos) {
      fail("a class name is empty or has a line break", file.string(), "rename the class");
    }
    lines += name + "\n";
  }
}

std::vector<std::string> get_class_names(const Checkpoint& checkpoint, const ModelSpec& model) {
  const std::string& text = checkpoint.text("class_names");
  std::vector<std::string> names;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    names.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  if (static_cast<int>(names.size()) != model.classes) {
    fail("there is not one name for each class", checkpoint.file, "write the bundle again");
  }
  return names;
}

std::string body_name(size_t index) { return fmt::format("body/{:04}", index); }

void put_module(Checkpoint& checkpoint, const std::string& part, const Module& module) {
  for (const NamedTensor& entry : module.state()) {
    checkpoint.tensors[part + "/" + entry.name] = entry.tensor;
  }
}

size_t get_module(const Checkpoint& checkpoint, const std::string& part, Module& module) {
  const std::string prefix = part + "/";
  std::vector<NamedTensor> state;
  for (auto it = checkpoint.tensors.lower_bound(prefix);
       it != checkpoint.tensors.end() && it->first.compare(0, prefix.size(), prefix) == 0; ++it) {
    state.push_back({it->first.substr(prefix.size()), it->second});
  }
  module.load_state(state, checkpoint.file + ": " + part);
  module.freeze();
  module.train(false);
  return state.size();
}

void check_count(const Checkpoint& checkpoint, size_t expected) {
  if (checkpoint.tensors.size() != expected) {
    fail(fmt::format("{} tensors where {} belong", checkpoint.tensors.size(), expected),
         checkpoint.file, "write the bundle again");
  }
}

}  // namespace bundle_file

using namespace bundle_file;

namespace {

std::vector<int> all_of(const BundleInfo& info) {
  std::vector<int> all(static_cast<size_t>(info.nets));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void check_part(const std::vector<int>& part, const BundleInfo& info, const std::string& file) {
  const bool ascending = std::ranges::adjacent_find(part, std::greater_equal<>()) == part.end();
  if (part.empty() || !ascending || part.front() < 0 || part.back() >= info.nets) {
    fail(fmt::format("nets {} are no part of an ensemble of {}", fmt::join(part, ","), info.nets),
         file, "name each net once, from 0");
  }
}

constexpr const char* kRanges = "ranges/";  // and the net's number: only in a calibrated bundle

std::string ranges_name(int net) { return fmt::format("{}{:04}", kRanges, net); }

void put_ranges(Checkpoint& checkpoint, int net, const std::vector<float>& ranges) {
  checkpoint.texts[ranges_name(net)] = fmt::format("{}", fmt::join(ranges, ","));
}

// Those of the bundle's bodies, in their order; of all of them or of none.
std::vector<std::vector<float>> get_ranges(const Checkpoint& checkpoint,
                                           const CloudBundle& bundle) {
  std::vector<std::vector<float>> all;
  const auto first = checkpoint.texts.lower_bound(kRanges);
  if (first == checkpoint.texts.end() || !first->first.starts_with(kRanges)) return all;
  const Shape input = smashed_shape(bundle.info.model, bundle.info.split);
  for (size_t i = 0; i < bundle.bodies.size(); ++i) {
    const std::string& text = checkpoint.text(ranges_name(bundle.part[i]));
    all.push_back(parse_floats(text, checkpoint.file));
    Graph graph = lower(*bundle.bodies[i], input);
    try {
      set_input_ranges(graph, all.back());
    } catch (const Error& error) {
      fail(fmt::format("net {}: {}", bundle.part[i], error.what()), checkpoint.file);
    }
  }
  return all;
}

constexpr const char* kNotes = "note/";

void put_notes(Checkpoint& checkpoint, const CloudBundle& bundle) {
  for (const auto& [name, text] : bundle.notes) checkpoint.texts[kNotes + name] = text;
}

std::map<std::string, std::string> get_notes(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> notes;
  for (auto it = checkpoint.texts.lower_bound(kNotes);
       it != checkpoint.texts.end() && it->first.starts_with(kNotes); ++it) {
    notes[it->first.substr(std::string(kNotes).size())] = it->second;
  }
  return notes;
}

}  // namespace

std::string fingerprint_of(const std::vector<std::shared_ptr<Sequential>>& bodies) {
  Checkpoint weights;
  for (size_t i = 0; i < bodies.size(); ++i) put_module(weights, body_name(i), *bodies[i]);
  return digest(weights.tensors);
}

void write_cloud_bundle(const std::filesystem::path& file, CloudBundle& bundle) {
  if (static_cast<int>(bundle.bodies.size()) != bundle.info.nets) {
    fail(fmt::format("{} bodies for N = {}", bundle.bodies.size(), bundle.info.nets),
         file.string());
  }
  Checkpoint checkpoint;
  checkpoint.kind = "cloud";
  for (size_t i = 0; i < bundle.bodies.size(); ++i) {
    put_module(checkpoint, body_name(i), *bundle.bodies[i]);
    if (!bundle.ranges.empty()) put_ranges(checkpoint, static_cast<int>(i), bundle.ranges.at(i));
  }
  bundle.info.fingerprint = digest(checkpoint.tensors);
  bundle.part = all_of(bundle.info);
  put_info(checkpoint, bundle.info);
  put_notes(checkpoint, bundle);
  write_checkpoint(file, checkpoint, /*secret=*/false);
}

void write_part(const std::filesystem::path& file, const CloudBundle& bundle,
                const std::vector<int>& part) {
  check_part(part, bundle.info, file.string());
  Checkpoint checkpoint;
  checkpoint.kind = "cloud";
  for (const int net : part) {
    const auto at = std::ranges::find(bundle.part, net);
    if (at == bundle.part.end()) {
      fail(fmt::format("net {} is not in this bundle", net), file.string());
    }
    const auto i = static_cast<size_t>(at - bundle.part.begin());
    put_module(checkpoint, body_name(static_cast<size_t>(net)), *bundle.bodies[i]);
    if (!bundle.ranges.empty()) put_ranges(checkpoint, net, bundle.ranges.at(i));
  }
  put_info(checkpoint, bundle.info);
  put_notes(checkpoint, bundle);
  checkpoint.texts["part"] = fmt::format("{}", fmt::join(part, ","));
  write_checkpoint(file, checkpoint, /*secret=*/false);
}

CloudBundle read_cloud_bundle(const std::filesystem::path& file) {
  const Checkpoint checkpoint = read_checkpoint(file, "cloud");
  CloudBundle bundle;
  bundle.info = get_info(checkpoint);
  bundle.part = all_of(bundle.info);
  if (checkpoint.texts.contains("part")) {
    bundle.part.clear();
    for (const float net : parse_floats(checkpoint.text("part"), checkpoint.file)) {
      if (!(net >= 0 && net < static_cast<float>(bundle.info.nets)) || net != std::floor(net)) {
        fail("'" + checkpoint.text("part") + "' names no nets", checkpoint.file);
      }
      bundle.part.push_back(static_cast<int>(net));
    }
    check_part(bundle.part, bundle.info, checkpoint.file);
  } else if (digest(checkpoint.tensors) != bundle.info.fingerprint) {
    fail("the server nets do not match the bundle's fingerprint", file.string(),
         "write the bundle again");
  }
  size_t count = 0;
  Rng rng = Rng::blank();
  for (const int i : bundle.part) {
    auto body = build_body(bundle.info.model, bundle.info.split, rng);
    count += get_module(checkpoint, body_name(static_cast<size_t>(i)), *body);
    bundle.bodies.push_back(std::move(body));
  }
  check_count(checkpoint, count);
  bundle.ranges = get_ranges(checkpoint, bundle);
  bundle.notes = get_notes(checkpoint);
  return bundle;
}

}  // namespace ens
