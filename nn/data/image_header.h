// What an image file says of itself before anything is decoded. Internal to nn/data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ens::data {

// Images with more pixels are refused (docs/images.md).
inline constexpr int64_t kMostPixels = int64_t{1} << 26;

enum class ImageFormat { kJpeg, kPng, kBmp, kTiff, kWebp, kPnm };
enum class Alpha { kIgnored, kStraight, kPremultiplied };

struct ImageHeader {
  ImageFormat format = ImageFormat::kJpeg;
  int64_t width = 0, height = 0;         // as stored, before the orientation
  int64_t buffer_pixels = 0;             // what a decoder allocates at once, if that is more
  int orientation = 1;                   // Exif's, 1 to 8
  std::optional<size_t> orientation_at;  // TIFF: where its two bytes are
  bool big_endian = false;               // of these two bytes
  int max_value = 0;                     // the sample that is white; 0: the largest of its type
  Alpha alpha = Alpha::kStraight;        // what a channel beyond grey or RGB means
  std::string unreadable;                // why it cannot be decoded; empty: it can
};

// Empty if the bytes are none of these formats, or damaged. Takes no memory.
std::optional<ImageHeader> read_header(const std::vector<uint8_t>& bytes);

}  // namespace ens::data
