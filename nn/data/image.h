// Pictures to and from files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

// Reads a picture, converts to `channels` (1 grey, 3 RGB), resizes to height x width (area filter
// when shrinking) unless they are 0. -> [channels, H, W] float32 in [0, 1].
// Error names the file and the problem (missing, not a picture, wrong size if `exact_size`).
Tensor read_image(const std::filesystem::path& file, int channels, int height, int width,
                  bool exact_size = false);

// The picture files directly inside a folder, sorted by name.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& folder);

// PNG bytes of [1|3, H, W] float32 in [0, 1] (clamped), each pixel drawn `zoom` times as large.
std::vector<uint8_t> encode_png(const Tensor& image, int zoom = 1);
void write_png(const std::filesystem::path& file, const Tensor& image, int zoom = 1);

}  // namespace ens
