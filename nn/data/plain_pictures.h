// The pictures that need no OpenCV: ordinary JPEG and PNG. Internal to nn/data.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "nn/data/pixels.h"

namespace ens::data {

// What OpenCV would decode, or nothing: another format, a form in which the two might differ
// (with Exif, CMYK, transparent, 16 bits, a PNG with a colour profile), or damage.
std::optional<Pixels> decode_plain(const std::vector<uint8_t>& bytes, int channels);

// PNG bytes of interleaved 8-bit grey (1) or RGB (3) pixels. Error if there is no memory.
std::vector<uint8_t> encode_png(const uint8_t* pixels, int channels, int height, int width);

}  // namespace ens::data
