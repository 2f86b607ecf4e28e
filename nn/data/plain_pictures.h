// The pictures that need no OpenCV: PNG and ordinary JPEG. Internal to nn/data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nn/data/pixels.h"

namespace ens::data {

// As it is stored: not turned, not composited. Empty if it is damaged; `why` says how.
std::optional<Raster> decode_png(const std::vector<uint8_t>& bytes, std::string& why);
// As luminance where `channels` is 1. Empty also for CMYK, without a `why`.
std::optional<Raster> decode_jpeg(const std::vector<uint8_t>& bytes, int channels,
                                  std::string& why);

// PNG bytes of interleaved 8-bit grey (1) or RGB (3) pixels. Error if there is no memory.
std::vector<uint8_t> encode_png(const uint8_t* pixels, int channels, int height, int width);

}  // namespace ens::data
