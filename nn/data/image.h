// Pictures to and from files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/core/tensor.h"
#include "nn/data/image_fit.h"

namespace ens {

// Reads a picture (docs/images.md says how each kind is decoded), converts to `channels` (1 grey, 3
// RGB), and makes it height x width by `fit` unless they are 0. -> [channels, H, W] float32 in [0,
// 1]. Error names the file and the problem (missing, not a picture, too large, wrong size if
// `exact_size`).
Tensor read_image(const std::filesystem::path& file, int channels, int height, int width,
                  bool exact_size = false, ImageFit fit = ImageFit::kCrop);

// The same for a file's bytes, which `name` stands for in messages, of at most so many pixels
// (width x height, before they are decoded).
Tensor decode_image(std::vector<uint8_t> bytes, const std::string& name, int64_t most_pixels,
                    int channels, int height, int width, ImageFit fit = ImageFit::kCrop);

// The same for pixels in memory: 8 bits a sample, rows of `stride` bytes from the top.
// from_channels: grey (1), grey and alpha (2), RGB (3) or RGBA (4).
Tensor fit_image(const uint8_t* pixels, int from_channels, int from_height, int from_width,
                 size_t stride, int channels, int height, int width, ImageFit fit);

// The picture files directly inside a folder, sorted by name. Without hidden files (macOS leaves
// ._NAME.png beside NAME.png).
std::vector<std::filesystem::path> list_images(const std::filesystem::path& folder);

// PNG bytes of [1|3, H, W] float32 in [0, 1] (clamped), each pixel drawn `zoom` times as large.
std::vector<uint8_t> encode_png(const Tensor& image, int zoom = 1);
void write_png(const std::filesystem::path& file, const Tensor& image, int zoom = 1);

// What is left of images [B,1|3,H,W] float32 in [0, 1] once each was a JPEG file of this quality, 1
// to 100.
Tensor as_jpeg(const Tensor& images, int quality);

}  // namespace ens
