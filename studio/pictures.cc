// SPDX-License-Identifier: Apache-2.0
#include "studio/pictures.h"

#include "base/files.h"
#include "base/hash.h"
#include "base/strings.h"
#include "studio/site.h"

namespace ens {
namespace {

std::string id_of(const std::string& bytes) {
  return to_hex(sha256(bytes.data(), bytes.size())).substr(0, 32);
}

bool is_png(const std::string& bytes) { return bytes.starts_with("\x89PNG\r\n\x1a\n"); }

}  // namespace

std::string Pictures::add(std::string png) {
  const std::string id = id_of(png);
  std::lock_guard lock(mutex_);
  if (kept_.contains(id)) return id;
  by_age_.push_back(id);
  bytes_ += png.size();
  kept_.emplace(id, Kept{std::move(png), std::prev(by_age_.end())});
  while (bytes_ > kBytes) {
    const auto oldest = kept_.find(by_age_.front());
    bytes_ -= oldest->second.png.size();
    kept_.erase(oldest);
    by_age_.pop_front();
  }
  return id;
}

std::string Pictures::add_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return {};
  const std::string bytes = read_file(file);
  if (!is_png(bytes)) return {};
  const std::string id = id_of(bytes);
  std::lock_guard lock(mutex_);
  files_[id] = file;
  return id;
}

std::vector<std::string> Pictures::ids() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [id, picture] : kept_) out.push_back(id);
  for (const auto& [id, file] : files_)
    if (!kept_.contains(id)) out.push_back(id);
  return out;
}

HttpReply Pictures::get(const std::string& id) {
  std::string bytes;
  std::filesystem::path file;
  {
    std::lock_guard lock(mutex_);
    if (const auto kept = kept_.find(id); kept != kept_.end()) {
      bytes = kept->second.png;
    } else if (const auto known = files_.find(id); known != files_.end()) {
      file = known->second;
    }
  }
  if (!file.empty()) bytes = read_file_if_there(file).value_or("");
  if (bytes.empty() || (!file.empty() && id_of(bytes) != id))
    throw Refusal(404, "this picture is no longer there", "picture", "load the page again");
  return {.type = "image/png",
          .body = std::move(bytes),
          .headers = {{"Cache-Control", "private, max-age=31536000, immutable"}}};
}

}  // namespace ens
