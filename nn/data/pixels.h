// 8-bit pictures: what the data set readers, videos and image.h share. Internal to nn/data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "nn/core/tensor.h"
#include "nn/data/image_fit.h"
#include "nn/data/image_header.h"

namespace ens::data {

struct Pixels {
  int channels = 0, height = 0, width = 0;
  std::vector<uint8_t> values;  // CHW; 3 channels are red, green, blue
};

// As a decoder gives it: interleaved grey (1), grey and alpha (2), RGB (3) or RGBA (4).
struct Raster {
  int channels = 0, height = 0, width = 0;
  std::vector<uint8_t> values;
};

// Decodes a picture file as grey (1) or RGB (3), by the rules of docs/images.md: turned as its Exif
// orientation says, composited on white, 16 bits rounded to 8. Error names the file and what is
// wrong with it: missing, not a picture, cut off, too large.
Pixels read_pixels(const std::filesystem::path& file, int channels);
// The same of a file's bytes; `file` names them in messages.
Pixels decode_pixels(std::vector<uint8_t> bytes, int channels, const std::filesystem::path& file,
                     int64_t most_pixels = kMostPixels);

// Composites on white and converts to grey (1) or RGB (3). The raster has `stride` bytes a row.
Pixels composite(const uint8_t* raster, int channels, int height, int width, size_t stride,
                 Alpha alpha, int to_channels);

// Scales to height x width: area average when neither side grows, else bilinear.
Pixels resize(const Pixels& image, int height, int width, ImageFit fit);
// -> [channels, height, width] float32 in [0, 1].
Tensor to_tensor(const Pixels& image);
// resize() for one CHW image in place in a larger buffer.
void resize(const uint8_t* from, int channels, int height, int width, uint8_t* to, int to_height,
            int to_width, ImageFit fit);

}  // namespace ens::data
