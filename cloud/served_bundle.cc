// SPDX-License-Identifier: Apache-2.0
#include "cloud/served_bundle.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/strings.h"
#include "ensemble/model/precision.h"
#include "nn/core/backend.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// Trainings run in float32 or bfloat16. A cloud can also compute in float16 and float8 on devices
// that have them, and with bfloat16 weights. Float8 needs a calibrated bundle and is used only if
// asked for.
Dtype serving_dtype(const CloudConfig& config, const CloudBundle& bundle, Device device) {
  const std::string& text = config.dtype();
  const Backend& here = backend(device);
  if (text == name(Dtype::kF8)) {
    if (!here.serves(Dtype::kF8)) {
      usage_fail("float8 needs an NVIDIA GPU of compute capability 8.9 or newer, which " +
                     device.str() + " is not",
                 "dtype", "use auto, float32 or bfloat16, on older GPUs float16");
    }
    if (bundle.ranges.empty()) {
      usage_fail("the server nets are not calibrated for float8", config.bundle(),
                 "run `ensembler calibrate RUN` first");
    }
    return Dtype::kF8;
  }
  if (text == name(Dtype::kF16) && here.supports(Dtype::kF16)) return Dtype::kF16;
  const bool half = text == "auto" || text == name(Dtype::kBF16);
  if (half && here.serves(Dtype::kBF16)) return Dtype::kBF16;
  return choose_dtype(text, device);
}

const BundleInfo& expected(const CloudConfig& config, const fs::path& file,
                           const BundleInfo& info) {
  const std::vector<std::string> prefixes = split_text(config.expect_fingerprint(), ',');
  const std::string fingerprint = to_hex(info.fingerprint);
  const bool named = std::ranges::any_of(
      prefixes, [&](const std::string& prefix) { return fingerprint.starts_with(prefix); });
  if (prefixes.empty() || named) return info;
  fail("the bundle's fingerprint is " + fingerprint.substr(0, 16) + "..., expected " +
           config.expect_fingerprint(),
       file.string(), "is it the right file? Otherwise change expect_fingerprint");
}

// The bundles that the configuration names now.
std::vector<fs::path> files_of(const CloudConfig& config) {
  if (fs::is_regular_file(config.bundle())) return {config.bundle()};  // also one with a comma
  if (!fs::is_directory(config.bundle())) {
    const std::vector<std::string> names = split_text(config.bundle(), ',');
    return {names.begin(), names.end()};
  }
  std::vector<std::pair<fs::file_time_type, fs::path>> found;
  for (const auto& entry : fs::directory_iterator(config.bundle())) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".h5" && !name.starts_with('.')) {
      found.emplace_back(fs::last_write_time(entry.path()), entry.path());
    }
  }
  if (found.empty()) fail("no bundle in the folder", config.bundle(), "put cloud.h5 there");
  std::ranges::sort(found, std::greater());
  std::vector<fs::path> files;
  for (auto& [time, path] : found) files.push_back(std::move(path));
  return files;
}

// For one more bundle beside what is served. Its weights are in memory twice while it is compiled.
void check_memory(const fs::path& file) {
  std::error_code error;
  const auto needed = 2 * static_cast<double>(fs::file_size(file, error));
  const double free = available_memory();
  if (!error && needed > free) {
    fail(fmt::format("the bundle takes about {:.0f} MB to load, and {:.0f} MB are free",
                     needed / 1e6, free / 1e6),
         file.string(), "retire another bundle first, or give the cloud more memory");
  }
}

}  // namespace

ServedBundle::ServedBundle(const CloudConfig& config, const fs::path& path)
    : ServedBundle(config, path, file_stamp(path), read_cloud_bundle(path)) {}

// The plans hold their own copies of the weights: the bundle's bodies go with it.
ServedBundle::ServedBundle(const CloudConfig& config, const fs::path& path, FileStamp read_at,
                           CloudBundle bundle)
    : file(path),
      stamp(read_at),
      info(expected(config, path, bundle.info)),
      shard(bundle.part),
      devices(parse_devices(config.device())),
      dtype(serving_dtype(config, bundle, devices[0])),
      input(smashed_shape(info.model, info.split)),
      output(body_output_shape(info.model, info.split)),
      max_request_batch(config.max_request_batch()),
      lanes(std::move(bundle), devices, dtype, config.max_batch(), config.threads()) {}

std::string ServedBundle::fingerprint_hex() const { return to_hex(info.fingerprint); }

ServedBundles::ServedBundles(const CloudConfig& config, const ServedBundles* before) {
  for (const fs::path& file : files_of(config)) {
    std::shared_ptr<ServedBundle> bundle;
    for (const auto& old : before ? before->all() : std::vector<std::shared_ptr<ServedBundle>>{}) {
      if (old->file == file && old->stamp == file_stamp(file)) bundle = old;
    }
    if (!bundle) {
      if (before || !bundles_.empty()) check_memory(file);
      bundle = std::make_shared<ServedBundle>(config, file);
    }
    if (const auto twin = find(bundle->info.fingerprint)) {
      fail("the same nets are in " + twin->file.string(), file.string(),
           "serve a bundle once; parts of one bundle need a cloud each");
    }
    bundles_.push_back(std::move(bundle));
  }
}

std::shared_ptr<ServedBundle> ServedBundles::find(const std::string& fingerprint) const {
  const auto found = std::ranges::find_if(
      bundles_, [&](const auto& bundle) { return bundle->info.fingerprint == fingerprint; });
  return found == bundles_.end() ? nullptr : *found;
}

}  // namespace ens
