// SPDX-License-Identifier: Apache-2.0
#include "base/memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace ens {
namespace {

// The value after `key` in a file of "key value" lines, or the file's only value; -1: none.
double read_value(const std::string& file, const std::string& key = "") {
  std::ifstream in(file);
  std::string word;
  if (!key.empty()) {
    while (in >> word && word != key) {
    }
  }
  double value = -1;
  return in >> value ? value : -1;
}

// As a container sees its own group. Files that were read count as used, and can be let go.
double left_in_group(const std::string& limit_file, const std::string& used_file,
                     const std::string& stat_file, const std::string& cache_key) {
  const double limit = read_value(limit_file), used = read_value(used_file);
  if (limit < 0 || used < 0) return -1;
  return std::max(0.0, limit - used + std::max(0.0, read_value(stat_file, cache_key)));
}

}  // namespace

double available_memory() {
  const double kilobytes = read_value("/proc/meminfo", "MemAvailable:");
  double free = kilobytes < 0 ? 4e9 : 1024 * kilobytes;
  const std::string group = "/sys/fs/cgroup/";
  for (const double left : {left_in_group(group + "memory.max", group + "memory.current",
                                          group + "memory.stat", "inactive_file"),
                            left_in_group(group + "memory/memory.limit_in_bytes",
                                          group + "memory/memory.usage_in_bytes",
                                          group + "memory/memory.stat", "total_inactive_file")}) {
    if (left >= 0) free = std::min(free, left);
  }
  return free;
}

}  // namespace ens
