// SPDX-License-Identifier: Apache-2.0
// Pictures by the hash of their bytes: what a browser may ask for is what an answer has named.
#pragma once

#include <filesystem>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/http/server.h"

namespace ens {

// Thread-safe.
class Pictures {
 public:
  std::string add(std::string png);  // its id. Kept in memory until newer ones need the room
  // The id of a PNG on disk, which is read again when it is asked for; empty if there is none.
  std::string add_file(const std::filesystem::path& file);
  HttpReply get(const std::string& id);  // Refusal 404
  std::vector<std::string> ids();        // of all that answers have named

 private:
  static constexpr size_t kBytes = 64 << 20;
  struct Kept {
    std::string png;
    std::list<std::string>::iterator age;
  };
  std::mutex mutex_;
  std::map<std::string, Kept> kept_;
  std::list<std::string> by_age_;  // the oldest first
  size_t bytes_ = 0;
  std::map<std::string, std::filesystem::path> files_;
};

}  // namespace ens
