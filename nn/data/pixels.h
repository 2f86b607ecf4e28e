// 8-bit pictures: what the data set readers and image.h share. Internal to nn/data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens::data {

struct Pixels {
  int channels = 0, height = 0, width = 0;
  std::vector<uint8_t> values;  // CHW; 3 channels are red, green, blue
};

// Decodes a picture file as grey (1) or RGB (3). Error names the file and what is wrong with it:
// missing, not a picture, cut off.
Pixels read_pixels(const std::filesystem::path& file, int channels);

// Stretches to height x width: area average when neither side grows, else bilinear.
Pixels resize(const Pixels& image, int height, int width);
// The square in the middle, as large as it goes.
Pixels centre_square(const Pixels& image);
// -> [channels, height, width] float32 in [0, 1].
Tensor to_tensor(const Pixels& image);
// resize() for one CHW image in place in a larger buffer.
void resize(const uint8_t* from, int channels, int height, int width, uint8_t* to, int to_height,
            int to_width);

}  // namespace ens::data
