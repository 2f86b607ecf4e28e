// SPDX-License-Identifier: Apache-2.0
// Where a tensor's memory lives and its operations run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

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

// The same for work that can be spread: one of these, several GPUs separated by commas
// ("cuda:0,cuda:2"), or all there are, "cuda:all". At least one; if several, GPUs, each once.
std::vector<Device> parse_devices(std::string_view text);
// "cuda:0,cuda:2": parse_devices' inverse.
std::string str(const std::vector<Device>& devices);

}  // namespace ens
