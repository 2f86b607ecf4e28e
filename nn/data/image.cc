#include "nn/data/image.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "nn/data/codecs.h"
#include "nn/data/pixels.h"
#include "nn/data/plain_pictures.h"

namespace ens {

namespace fs = std::filesystem;

Tensor read_image(const fs::path& file, int channels, int height, int width, bool exact_size,
                  ImageFit fit) {
  if (height < 0 || width < 0) usage_fail("picture size must not be negative", file.string());
  data::Pixels image = data::read_pixels(file, channels);
  const int to_height = height ? height : image.height;
  const int to_width = width ? width : image.width;
  if (exact_size && (to_height != image.height || to_width != image.width)) {
    fail("picture is " + std::to_string(image.width) + "x" + std::to_string(image.height) +
             " pixels (width x height), not " + std::to_string(to_width) + "x" +
             std::to_string(to_height),
         file.string(), "resize the picture, or allow it to be resized (--resize)");
  }
  return data::to_tensor(data::resize(image, to_height, to_width, fit));
}

Tensor decode_image(std::vector<uint8_t> bytes, const std::string& name, int64_t most_pixels,
                    int channels, int height, int width, ImageFit fit) {
  return data::to_tensor(data::resize(
      data::decode_pixels(std::move(bytes), channels, name, most_pixels), height, width, fit));
}

Tensor fit_image(const uint8_t* pixels, int from_channels, int from_height, int from_width,
                 size_t stride, int channels, int height, int width, ImageFit fit) {
  if (from_channels < 1 || from_channels > 4 || from_height < 1 || from_width < 1 ||
      int64_t{from_height} * from_width > data::kMostPixels ||
      stride < static_cast<size_t>(from_channels) * static_cast<size_t>(from_width)) {
    fail("no picture has " + std::to_string(from_channels) + " channels, " +
             std::to_string(from_width) + "x" + std::to_string(from_height) +
             " pixels (width x height) and rows of " + std::to_string(stride) + " bytes",
         "", "see docs/images.md");
  }
  return data::to_tensor(
      data::resize(data::composite(pixels, from_channels, from_height, from_width, stride,
                                   data::Alpha::kStraight, channels),
                   height, width, fit));
}

std::vector<fs::path> list_images(const fs::path& folder) {
  constexpr std::array<std::string_view, 10> kExtensions{".jpg",  ".jpeg", ".png", ".bmp", ".tif",
                                                         ".tiff", ".webp", ".ppm", ".pgm", ".pbm"};
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::string extension = it->path().extension().string();
    std::ranges::transform(extension, extension.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    std::error_code ignored;
    if (std::ranges::find(kExtensions, extension) != kExtensions.end() &&
        !it->path().filename().string().starts_with('.') && it->is_regular_file(ignored)) {
      files.push_back(it->path());
    }
  }
  if (error) fail("cannot list folder: " + error.message(), folder.string(), "check the path");
  std::ranges::sort(files);
  return files;
}

std::vector<uint8_t> encode_png(const Tensor& image, int zoom) {
  if (image.rank() != 3 || (image.dim(0) != 1 && image.dim(0) != 3) || image.numel() == 0) {
    fail("a picture has shape [1 or 3, height, width], not " + image.shape().str());
  }
  if (zoom < 1) fail("zoom must be at least 1, not " + std::to_string(zoom));
  const Tensor source = image.to(Device{}).plain().to(Dtype::kF32);
  const int channels = static_cast<int>(source.dim(0));
  const int height = static_cast<int>(source.dim(1)), width = static_cast<int>(source.dim(2));
  const float* values = source.data<float>();
  std::vector<uint8_t> picture(static_cast<size_t>(height) * zoom * width * zoom * channels);
  for (int y = 0; y < height * zoom; ++y) {
    uint8_t* row = &picture[static_cast<size_t>(y) * width * zoom * channels];
    for (int x = 0; x < width * zoom; ++x) {
      for (int c = 0; c < channels; ++c) {
        const float value = values[(int64_t{c} * height + y / zoom) * width + x / zoom];
        // The comparison order makes NaN black.
        const float clamped = value > 0.0f ? std::min(value, 1.0f) : 0.0f;
        row[x * channels + c] = static_cast<uint8_t>(std::lround(clamped * 255.0f));
      }
    }
  }
  return data::encode_png(picture.data(), channels, height * zoom, width * zoom);
}

void write_png(const fs::path& file, const Tensor& image, int zoom) {
  const std::vector<uint8_t> bytes = encode_png(image, zoom);
  fs::path partial = file;
  partial += ".partial";
  std::ofstream out(partial, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.close();
  std::error_code error;
  if (out) {
    fs::rename(partial, file, error);
  } else {
    error.assign(errno, std::generic_category());
  }
  if (error) {
    const std::string why = error.message();
    fs::remove(partial, error);
    fail("cannot write picture: " + why, file.string(), "check the folder and the free space");
  }
}

Tensor as_jpeg(const Tensor& images, int quality) {
  if (images.rank() != 4 || (images.dim(1) != 1 && images.dim(1) != 3) || images.numel() == 0) {
    fail("pictures have shape [count, 1 or 3, height, width], not " + images.shape().str());
  }
  const Tensor source = images.to(Device{}).plain().to(Dtype::kF32);
  Tensor out = Tensor::empty(source.shape());
  data::Raster picture{static_cast<int>(source.dim(1)),
                       static_cast<int>(source.dim(2)),
                       static_cast<int>(source.dim(3)),
                       {}};
  const auto channels = static_cast<size_t>(picture.channels);
  const size_t plane = static_cast<size_t>(picture.height) * static_cast<size_t>(picture.width);
  picture.values.resize(channels * plane);
  for (int64_t i = 0; i < source.dim(0); ++i) {
    const float* from = source.rows(i, 1).data<float>();
    float* to = out.rows(i, 1).data<float>();
    for (size_t j = 0; j < picture.values.size(); ++j) {
      const float value = std::clamp(from[j % channels * plane + j / channels], 0.0f, 1.0f);
      picture.values[j] = static_cast<uint8_t>(std::lround(value * 255));
    }
    const std::vector<uint8_t> file = data::codecs().encode_jpeg(picture, quality);
    const data::Raster read = data::codecs().decode(file.data(), file.size(), 255);
    if (read.values.size() != picture.values.size()) fail("the JPEG cannot be read back");
    for (size_t j = 0; j < read.values.size(); ++j) {
      to[j % channels * plane + j / channels] = static_cast<float>(read.values[j]) / 255;
    }
  }
  return out.to(images.device());
}

}  // namespace ens
