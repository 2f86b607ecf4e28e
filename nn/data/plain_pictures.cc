#include "nn/data/plain_pictures.h"

#include <png.h>
#include <turbojpeg.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace ens::data {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 28;

bool holds(const std::vector<uint8_t>& bytes, std::string_view mark) {
  const size_t header = std::min<size_t>(bytes.size(), 64 << 10);
  return std::search(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(header), mark.begin(),
                     mark.end()) != bytes.begin() + static_cast<ptrdiff_t>(header);
}

Pixels planes_of(const std::vector<uint8_t>& interleaved, int channels, int height, int width) {
  Pixels out{channels, height, width, std::vector<uint8_t>(interleaved.size())};
  const size_t plane = interleaved.size() / static_cast<size_t>(channels);
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    for (size_t i = 0; i < plane; ++i) {
      out.values[c * plane + i] = interleaved[i * static_cast<size_t>(channels) + c];
    }
  }
  return out;
}

std::optional<Pixels> decode_jpeg(const std::vector<uint8_t>& bytes, int channels) {
  if (holds(bytes, std::string_view("Exif\0", 5))) return {};  // may say: turned
  const std::unique_ptr<void, int (*)(tjhandle)> reader(tjInitDecompress(), tjDestroy);
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (!reader || tjDecompressHeader3(reader.get(), bytes.data(), bytes.size(), &width, &height,
                                     &subsampling, &colours) != 0) {
    return {};
  }
  if (colours == TJCS_CMYK || colours == TJCS_YCCK || int64_t{width} * height > kMostPixels) {
    return {};
  }
  if (channels == 1 && colours == TJCS_RGB) return {};
  std::vector<uint8_t> pixels(static_cast<size_t>(width) * height * channels);
  if (tjDecompress2(reader.get(), bytes.data(), bytes.size(), pixels.data(), width, 0, height,
                    channels == 1 ? TJPF_GRAY : TJPF_RGB, 0) != 0) {
    return {};
  }
  return planes_of(pixels, channels, height, width);
}

std::optional<Pixels> decode_png(const std::vector<uint8_t>& bytes, int channels) {
  if (holds(bytes, "gAMA") || holds(bytes, "iCCP") || holds(bytes, "cHRM")) return {};
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> free(&image, png_image_free);
  if (!png_image_begin_read_from_memory(&image, bytes.data(), bytes.size())) return {};
  const bool colour = (image.format & PNG_FORMAT_FLAG_COLOR) != 0;
  if ((image.format & (PNG_FORMAT_FLAG_ALPHA | PNG_FORMAT_FLAG_LINEAR)) != 0 ||
      (colour && channels == 1) || int64_t{image.width} * image.height > kMostPixels) {
    return {};
  }
  image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(image));
  if (!png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) ||
      image.warning_or_error != 0) {
    return {};
  }
  return planes_of(pixels, channels, static_cast<int>(image.height), static_cast<int>(image.width));
}

}  // namespace

std::optional<Pixels> decode_plain(const std::vector<uint8_t>& bytes, int channels) {
  if (bytes.size() < 8) return {};
  if (bytes[0] == 0xff && bytes[1] == 0xd8) return decode_jpeg(bytes, channels);
  if (bytes[0] == 0x89 && bytes[1] == 'P') return decode_png(bytes, channels);
  return {};
}

std::vector<uint8_t> encode_png(const uint8_t* pixels, int channels, int height, int width) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  const std::unique_ptr<png_image, void (*)(png_image*)> free(&image, png_image_free);
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::vector<uint8_t> bytes(size);
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels, 0, nullptr)) {
    fail(std::string("cannot encode a picture: ") + image.message);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace ens::data
