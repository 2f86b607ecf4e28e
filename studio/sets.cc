// SPDX-License-Identifier: Apache-2.0
#include "studio/sets.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/files.h"
#include "base/strings.h"
#include "disguise/set/set.h"
#include "lab/pictures.h"
#include "nn/core/rng.h"
#include "nn/data/image.h"
#include "proto/results.h"
#include "report/data.h"
#include "studio/pictures.h"
#include "studio/site.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFiles[] = {"train.h5", "test.h5"};

bool is_id(const std::string& id) {
  return id.size() == 16 && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::vector<std::string> folders_in(const fs::path& folder) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (const std::string name = it->path().filename(); is_id(name)) out.push_back(name);
  return out;
}

// What a set's file says to whoever has it.
void add_items(const fs::path& file, studio::OwnerSets::Set& to) {
  const DisguisedSetReader reader(file);
  const DisguisedSetInfo& info = reader.info();
  const auto rows = static_cast<double>(info.rows);
  const auto add = [&](const char* part, const std::string& shape, const std::string& type,
                       double bytes, const std::string& what) {
    auto& item = *to.add_leaves();
    item.set_name(file.filename().string() + part);
    item.set_shape(shape);
    item.set_type(type);
    item.set_bytes(bytes);
    item.set_what(what);
  };
  const double data =
      rows * static_cast<double>(info.shape.numel()) * static_cast<double>(size_of(info.dtype));
  const double chunks = std::ceil(rows / kDisguisedChunkRows);
  add("/x", fmt::format("[{}] x {}", info.rows, info.shape.str()), name(info.dtype), data,
      "disguised images, in an order that is thrown away");
  add("/y", fmt::format("[{}]", info.rows), "int32", 4 * rows, "their labels");
  add("/x_sha256", fmt::format("[{:.0f}, 32]", chunks), "uint8", 32 * chunks, "checksums");
  add(" otherwise", "", "text",
      std::max(0.0, static_cast<double>(fs::file_size(file)) - data - 4 * rows - 32 * chunks),
      fmt::format("attributes (method {}, its settings, {} classes, mean and deviation, key id {}, "
                  "set id {}), and padding",
                  info.method, info.classes, info.key_id, info.set_id));
}

studio::TrainingChoices::Set describe(const fs::path& folder, std::string& picture) {
  const DisguisedSetReader train(folder / kFiles[0]);
  const DisguisedSetInfo& info = train.info();
  studio::TrainingChoices::Set out;
  out.set_method(info.method);
  out.set_settings(info.settings);
  out.set_key_id(info.key_id);
  out.set_set_id(info.set_id);
  out.set_shape(info.shape.str());
  out.set_rows(static_cast<double>(info.rows));
  for (const std::string& mark : info.marks) out.add_marks(mark);
  double bytes = 0;
  for (const char* name : kFiles) {
    std::error_code error;
    if (const auto size = fs::file_size(folder / name, error); !error)
      bytes += static_cast<double>(size);
  }
  out.set_bytes(bytes);
  if (fs::exists(folder / kFiles[1]))
    out.set_test_rows(static_cast<double>(DisguisedSetReader(folder / kFiles[1]).info().rows));
  std::vector<double> of_class(static_cast<size_t>(info.classes));
  for (const int32_t label : train.labels()) ++of_class[static_cast<size_t>(label)];
  for (const double n : of_class) out.add_of_class(n);
  results::RunSummary::Disguise named;
  named.set_method(info.method);
  out.set_title("Set " + info.set_id.substr(0, 6) + ": " + report::disguise_title(named));
  const Tensor rows = train.rows(0, std::min<int64_t>(16, info.rows));
  const auto [low, high] = range_of(rows, info.dtype == Dtype::kU8 && info.scale == 1);
  std::vector<Tensor> shown;
  for (int64_t i = 0; i < rows.dim(0); ++i)
    shown.push_back(as_picture(rows.rows(i, 1).reshape(info.shape), low, high));
  const std::vector<uint8_t> png = encode_png(tiled(shown, info.shape.rank() == 3 ? 8 : 4));
  picture.assign(png.begin(), png.end());
  return out;
}

}  // namespace

std::string DisguisedSets::make(studio::OwnerSets::Set about) {
  const uint64_t random = secure_random();
  const std::string id = to_hex({reinterpret_cast<const char*>(&random), sizeof random});
  const fs::path folder = state_ / "owner" / id;
  fs::create_directories(folder);
  fs::permissions(state_ / "owner", fs::perms::owner_all);
  about.set_id(id);
  about.set_created(
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  results::write(folder / "about.json", about);
  return id;
}

void DisguisedSets::set_job(const std::string& id, const std::string& job) {
  studio::OwnerSets::Set about;
  results::read(owner(id) / "about.json", about);
  about.set_job(job);
  results::write(owner(id) / "about.json", about);
}

fs::path DisguisedSets::owner(const std::string& id) const {
  const fs::path folder = state_ / "owner" / id;
  if (!is_id(id) || !fs::exists(folder / "about.json"))
    throw Refusal(404, "there is no such disguised set", "set");
  return folder;
}

fs::path DisguisedSets::upload(const std::string& id) const {
  if (!uploaded(id)) throw Refusal(404, "no such set was uploaded", "set");
  return state_ / "uploads" / id;
}

bool DisguisedSets::uploaded(const std::string& id) const {
  return is_id(id) && fs::exists(state_ / "uploads" / id / kFiles[0]);
}

studio::DisguiseReport DisguisedSets::report(const std::string& id) const {
  studio::DisguiseReport out;
  if (!results::read_if_intact(owner(id) / "set.json", out))
    throw Refusal(409, "the set is not done yet", "set", "wait for its job");
  return out;
}

void DisguisedSets::hand_over(const std::string& id) {
  report(id);
  const fs::path from = owner(id), to = state_ / "uploads" / id;
  if (uploaded(id)) return;
  fs::create_directories(to);
  for (const char* name : {kFiles[1], kFiles[0]}) {  // train.h5 says that all is there
    std::error_code error;
    fs::create_hard_link(from / name, to / name, error);
    if (error) fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
  }
}

void DisguisedSets::remove(const std::string& id) {
  const fs::path folder = owner(id);
  fs::remove_all(state_ / "uploads" / id);
  fs::remove_all(folder);
  std::lock_guard lock(mutex_);
  known_.erase(id);
  uploaded_.erase(id);
}

studio::OwnerSets DisguisedSets::owner_sets() {
  std::vector<studio::OwnerSets::Set> sets;
  std::lock_guard lock(mutex_);
  for (const std::string& id : folders_in(state_ / "owner")) {
    const fs::path folder = state_ / "owner" / id;
    studio::OwnerSets::Set set;
    if (const auto known = known_.find(id); known != known_.end()) {
      set = known->second;
    } else {
      if (!results::read_if_intact(folder / "about.json", set)) continue;
      studio::DisguiseReport report;
      if (results::read_if_intact(folder / "set.json", report)) {
        try {
          for (const char* name : kFiles) add_items(folder / name, set);
          *set.mutable_report() = report;
          known_[id] = set;
        } catch (const std::exception&) {  // damaged: it cannot be uploaded
          set.clear_leaves();
        }
      }
    }
    set.set_uploaded(uploaded(id));
    sets.push_back(std::move(set));
  }
  std::ranges::sort(sets, std::greater(), &studio::OwnerSets::Set::created);
  studio::OwnerSets out;
  for (auto& set : sets) *out.add_sets() = std::move(set);
  return out;
}

void DisguisedSets::cloud_sets(studio::TrainingChoices& out, Pictures& pictures) {
  std::vector<studio::TrainingChoices::Set> sets;
  std::lock_guard lock(mutex_);
  for (const std::string& id : folders_in(state_ / "uploads")) {
    auto known = uploaded_.find(id);
    if (known == uploaded_.end()) {
      try {
        Upload upload;
        upload.set = describe(state_ / "uploads" / id, upload.png);
        upload.set.set_id(id);
        upload.set.set_created(
            1e-9 * static_cast<double>(file_stamp(state_ / "owner" / id / "set.json").written_ns));
        known = uploaded_.emplace(id, std::move(upload)).first;
      } catch (const std::exception&) {
        continue;
      }
    }
    sets.push_back(known->second.set);
    sets.back().set_picture(pictures.add(known->second.png));
    sets.back().set_plain(fs::exists(state_ / "owner" / id / "set.json"));
  }
  std::ranges::sort(sets, std::greater(), &studio::TrainingChoices::Set::created);
  for (auto& set : sets) *out.add_sets() = std::move(set);
}

}  // namespace ens
