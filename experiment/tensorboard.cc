// SPDX-License-Identifier: Apache-2.0
#include "experiment/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "experiment/tensorboard.pb.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "events.out.tfevents.";  // by which TensorBoard finds them

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 8; ++bit) {
      table[i] = table[i] & 1 ? table[i] >> 1 ^ 0x82f63b78u : table[i] >> 1;
    }
  }
  return table;
}

double now() {
  using namespace std::chrono;
  return duration<double>(system_clock::now().time_since_epoch()).count();
}

void append(std::string& to, uint64_t value, int bytes) {  // little-endian
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

void append_checksum(std::string& to, std::string_view of) {
  const uint32_t crc = crc32c(of);
  append(to, (crc >> 15 | crc << 17) + 0xa282ead8u, 4);
}

// Of a PNG, from its header: 4 bytes each, the most significant first.
int32_t number_in(const std::string& png, size_t at) {
  uint32_t value = 0;
  for (size_t i = at; i < at + 4 && i < png.size(); ++i) {
    value = value << 8 | static_cast<uint8_t>(png[i]);
  }
  return static_cast<int32_t>(value);
}

tensorboard::Event event_at(int64_t step) {
  tensorboard::Event event;
  event.set_wall_time(now());
  event.set_step(step);
  return event;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ crc >> 8;
  return ~crc;
}

EventFile::EventFile(const fs::path& folder) {
  fs::create_directories(folder);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(kPrefix)) fs::remove(entry.path());
  }
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) std::strcpy(host.data(), "unknown");
  path_ = folder / fmt::format("{}{:010.0f}.{}.{}", kPrefix, now(), host.data(), getpid());
  file_ = Fd(open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file_) fail(std::string("cannot open the file: ") + std::strerror(errno), path_.string());
  tensorboard::Event event = event_at(0);
  event.set_file_version("brain.Event:2");
  write(event.SerializeAsString());
}

void EventFile::add_scalar(const std::string& tag, int64_t step, double value) {
  tensorboard::Event event = event_at(step);
  auto& scalar = *event.mutable_summary()->add_value();
  scalar.set_tag(tag);
  scalar.set_simple_value(static_cast<float>(value));
  write(event.SerializeAsString());
}

void EventFile::add_image(const std::string& tag, int64_t step, const std::string& png) {
  constexpr size_t kWidthAt = 16, kHeightAt = 20;
  tensorboard::Event event = event_at(step);
  auto& value = *event.mutable_summary()->add_value();
  value.set_tag(tag);
  auto& image = *value.mutable_image();
  image.set_width(number_in(png, kWidthAt));
  image.set_height(number_in(png, kHeightAt));
  image.set_colorspace(3);
  image.set_encoded_image_string(png);
  write(event.SerializeAsString());
}

void EventFile::write(const std::string& event) {
  std::string record;
  append(record, event.size(), 8);
  append_checksum(record, record);
  record += event;
  append_checksum(record, event);
  std::lock_guard lock(mutex_);
  if (!write_all(file_, record)) {
    fail(std::string("cannot write the file: ") + std::strerror(errno), path_.string(),
         "free some disk space, or go on without --tensorboard");
  }
}

}  // namespace ens
