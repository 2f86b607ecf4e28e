// Where a tensor's memory lives and its operations run.
#pragma once

#include <string>
#include <string_view>

namespace ens {

struct Device {
  enum class Type { kCpu, kCuda };
  Type type = Type::kCpu;
  int index = 0;

  bool operator==(const Device&) const = default;
  std::string str() const;  // "cpu", "cuda:0"
};

// Parses "cpu", "cuda", "cuda:1" or "auto": the first GPU if there is one, else the CPU, and one
// line on stderr that says why, once, in programs that offer GPUs. Usage Error for anything else,
// or for a device that is not there.
Device parse_device(std::string_view text);

}  // namespace ens
