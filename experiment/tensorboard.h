// SPDX-License-Identifier: Apache-2.0
// Numbers and images of a run as TensorBoard's event files, which it shows while they grow:
// `tensorboard --logdir runs`.
//
// A file is a list of records (TFRecord): the length of an Event in eight bytes, a checksum of
// them, the Event as Protobuf, a checksum of it (CRC-32C, rotated and shifted).
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace ens {

class EventFile {
 public:
  // A new file in `folder`, which is made; mode 0600. Event files that are there are removed: the
  // new one takes their place. Error if it cannot be written.
  explicit EventFile(const std::filesystem::path& folder);

  // Thread-safe; others can read it when they return. `png`: the bytes of a PNG.
  void add_scalar(const std::string& tag, int64_t step, double value);
  void add_image(const std::string& tag, int64_t step, const std::string& png);

 private:
  void write(const std::string& event);

  std::mutex mutex_;
  std::filesystem::path path_;
  Fd file_;
};

// CRC-32C (Castagnoli), as RFC 3720 has it.
uint32_t crc32c(std::string_view bytes);

}  // namespace ens
