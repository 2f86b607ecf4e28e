// The work behind fetch_dataset, with the addresses as arguments. Internal to nn/data and its
// tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nn/data/fetch.h"

namespace ens::data {

struct FetchFile {
  std::string url;
  std::string checksum;  // hexadecimal: 32 digits are an MD5, 64 a SHA-256
  int64_t size = 0;      // bytes; 0: not known
  // .tar.gz: the files to take out, by base name, whatever folder they are in. Empty for a .gz,
  // which becomes the one file of the same name without .gz.
  std::vector<std::string> members;
};

struct FetchLimits {
  long connect_s = 20;  // to reach the server
  long stall_s = 30;    // below stall_bytes per second for this long: give up
  long stall_bytes = 1024;
};

// fetch_dataset for a data set `name` that load_dataset knows, from these addresses.
void fetch_files(const std::string& name, const std::vector<FetchFile>& files,
                 const std::filesystem::path& root,
                 const std::function<void(const FetchProgress&)>& progress,
                 const FetchLimits& limits = {});

}  // namespace ens::data
