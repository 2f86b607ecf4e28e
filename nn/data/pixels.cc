#include "nn/data/pixels.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "base/error.h"
#include "nn/data/codecs.h"
#include "nn/data/plain_pictures.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPictureHint = "give a JPEG, PNG, BMP, TIFF, WebP or PNM picture";
constexpr size_t kMostBytes = size_t{1} << 29;  // of a file; no picture that is read needs more

std::vector<uint8_t> slurp(const fs::path& file) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    usage_fail("a folder was given where a picture is needed", file.string(), kPictureHint);
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    const std::string why = std::strerror(errno);
    fail("cannot open picture: " + why, file.string(), "check the path");
  }
  std::vector<uint8_t> bytes;
  while (in) {
    const size_t used = bytes.size();
    bytes.resize(used + std::max<size_t>(used, 1 << 16));
    in.read(reinterpret_cast<char*>(bytes.data() + used),
            static_cast<std::streamsize>(bytes.size() - used));
    bytes.resize(used + static_cast<size_t>(in.gcount()));
    if (bytes.size() > kMostBytes) fail("the file is too large for a picture", file.string());
  }
  return bytes;
}

// Decoders paint what they have of a truncated file and succeed, so look for the end marks.
bool cut_off(const std::vector<uint8_t>& bytes) {
  constexpr std::array<uint8_t, 2> kJpegStart{0xff, 0xd8}, kJpegEnd{0xff, 0xd9};
  constexpr std::array<uint8_t, 4> kPngStart{0x89, 'P', 'N', 'G'}, kPngEnd{'I', 'E', 'N', 'D'};
  const auto starts = [&](const auto& mark) {
    return bytes.size() > mark.size() && std::equal(mark.begin(), mark.end(), bytes.begin());
  };
  const auto holds = [&](const auto& mark) {
    return std::find_end(bytes.begin(), bytes.end(), mark.begin(), mark.end()) != bytes.end();
  };
  return (starts(kJpegStart) && !holds(kJpegEnd)) || (starts(kPngStart) && !holds(kPngEnd));
}

// Before memory is taken for the pixels.
void check_size(const ImageHeader& header, const fs::path& file, int64_t most) {
  const auto too_large = [most](int64_t width, int64_t height) {
    return width > most || height > most || width * height > most;
  };
  if (too_large(header.width, header.height) || header.buffer_pixels > most) {
    fail("picture of " + std::to_string(header.width) + "x" + std::to_string(header.height) +
             " pixels (width x height) has more than the " + std::to_string(most) +
             " that are read",
         file.string(), "make it smaller first");
  }
}

Raster decode(std::vector<uint8_t>& bytes, const ImageHeader& header, int channels,
              const fs::path& file) {
  std::string why;
  std::optional<Raster> plain;
  if (header.format == ImageFormat::kPng) plain = decode_png(bytes, why);
  if (header.format == ImageFormat::kJpeg) plain = decode_jpeg(bytes, channels, why);
  if (plain) return *std::move(plain);
  if (!why.empty()) fail("cannot decode picture: " + why, file.string(), "copy it again");
  // Its decoders differ in whether they turn a picture.
  if (header.orientation_at) {
    bytes[*header.orientation_at] = header.big_endian ? 0 : 1;
    bytes[*header.orientation_at + 1] = header.big_endian ? 1 : 0;
  }
  const Codecs& decoders = codecs();
  Raster out;
  try {
    out = decoders.decode(bytes.data(), bytes.size(), header.max_value);
  } catch (const std::exception& e) {
    fail(std::string("cannot decode picture: ") + e.what(), file.string(), kPictureHint);
  }
  if (out.width == 0) fail("not a picture that can be read", file.string(), kPictureHint);
  return out;
}

// Turned as Exif's orientation asks for (Exif 2.32, table 6).
Pixels upright(Pixels image, int orientation) {
  if (orientation == 1) return image;
  const bool swaps = orientation >= 5;
  // cv::flip's code, after the transposition.
  constexpr std::array<int, 9> kFlip{2, 2, 1, -1, 0, 2, 1, -1, 0};
  const int flip = kFlip[static_cast<size_t>(orientation)];
  Pixels out{image.channels, swaps ? image.width : image.height, swaps ? image.height : image.width,
             std::vector<uint8_t>(image.values.size())};
  const size_t plane = image.values.size() / static_cast<size_t>(image.channels);
  for (size_t c = 0; c < static_cast<size_t>(image.channels); ++c) {
    cv::Mat from(image.height, image.width, CV_8UC1, image.values.data() + c * plane);
    cv::Mat to(out.height, out.width, CV_8UC1, out.values.data() + c * plane);
    if (swaps) {
      cv::transpose(from, to);
      if (flip != 2) cv::flip(to, to, flip);
    } else {
      cv::flip(from, to, flip);
    }
  }
  return out;
}

}  // namespace

Pixels composite(const uint8_t* raster, int channels, int height, int width, size_t stride,
                 Alpha alpha, int to_channels) {
  const bool colour = channels >= 3, transparent = channels % 2 == 0 && alpha != Alpha::kIgnored;
  const size_t plane = static_cast<size_t>(height) * static_cast<size_t>(width);
  Pixels out{to_channels, height, width,
             std::vector<uint8_t>(plane * static_cast<size_t>(to_channels))};
  uint8_t* to = out.values.data();
  for (int y = 0; y < height; ++y) {
    const uint8_t* from = raster + static_cast<size_t>(y) * stride;
    for (int x = 0; x < width; ++x, ++to, from += channels) {
      std::array<uint32_t, 3> rgb{from[0], from[colour ? 1 : 0], from[colour ? 2 : 0]};
      if (transparent) {
        const uint32_t a = from[channels - 1];
        for (uint32_t& value : rgb) {
          value = alpha == Alpha::kPremultiplied ? std::min(value + 255 - a, 255u)
                                                 : (value * a + 255 * (255 - a) + 127) / 255;
        }
      }
      if (to_channels == 3) {
        to[0] = static_cast<uint8_t>(rgb[0]);
        to[plane] = static_cast<uint8_t>(rgb[1]);
        to[2 * plane] = static_cast<uint8_t>(rgb[2]);
      } else {  // ITU-R BT.601's luminance, in 14 bits
        to[0] = static_cast<uint8_t>((rgb[0] * 4899 + rgb[1] * 9617 + rgb[2] * 1868 + 8192) >> 14);
      }
    }
  }
  return out;
}

Pixels read_pixels(const fs::path& file, int channels) {
  if (channels != 1 && channels != 3) {
    usage_fail("pictures have 1 (grey) or 3 (RGB) channels, not " + std::to_string(channels),
               file.string());
  }
  return decode_pixels(slurp(file), channels, file);
}

Pixels decode_pixels(std::vector<uint8_t> bytes, int channels, const fs::path& file,
                     int64_t most_pixels) {
  if (bytes.empty()) fail("picture file is empty", file.string(), kPictureHint);
  if (cut_off(bytes)) fail("picture file is cut off", file.string(), "copy it again");
  const std::optional<ImageHeader> header = read_header(bytes);
  if (!header) fail("not a picture that can be read", file.string(), kPictureHint);
  if (!header->unreadable.empty()) {
    fail("picture " + header->unreadable, file.string(), "save it as 8-bit PNG");
  }
  check_size(*header, file, most_pixels);
  Pixels pixels;
  {
    const Raster raster = decode(bytes, *header, channels, file);
    const size_t stride = static_cast<size_t>(raster.channels) * static_cast<size_t>(raster.width);
    pixels = composite(raster.values.data(), raster.channels, raster.height, raster.width, stride,
                       header->alpha, channels);
  }
  return upright(std::move(pixels), header->orientation);
}

void resize(const uint8_t* from, int channels, int height, int width, uint8_t* to, int to_height,
            int to_width, ImageFit fit) {
  cv::Rect part(0, 0, width, height);
  if (fit == ImageFit::kCrop) {
    const int64_t by_height = int64_t{height} * to_width / to_height;
    const int64_t by_width = int64_t{width} * to_height / to_width;
    part.width = static_cast<int>(std::clamp<int64_t>(by_height, 1, width));
    part.height = static_cast<int>(std::clamp<int64_t>(by_width, 1, height));
    part.x = (width - part.width) / 2;
    part.y = (height - part.height) / 2;
  }
  const bool shrinks = to_height <= part.height && to_width <= part.width;
  for (int c = 0; c < channels; ++c) {
    const cv::Mat whole(height, width, CV_8UC1,
                        const_cast<uint8_t*>(from + int64_t{c} * height * width));
    cv::Mat target(to_height, to_width, CV_8UC1, to + int64_t{c} * to_height * to_width);
    cv::resize(whole(part), target, target.size(), 0, 0,
               shrinks ? cv::INTER_AREA : cv::INTER_LINEAR);
  }
}

Pixels resize(const Pixels& image, int height, int width, ImageFit fit) {
  if (image.height == height && image.width == width) return image;
  Pixels out{image.channels, height, width, {}};
  out.values.resize(static_cast<size_t>(image.channels) * static_cast<size_t>(height) *
                    static_cast<size_t>(width));
  resize(image.values.data(), image.channels, image.height, image.width, out.values.data(), height,
         width, fit);
  return out;
}

Tensor to_tensor(const Pixels& image) {
  Tensor out = Tensor::empty({image.channels, image.height, image.width});
  std::ranges::transform(image.values, out.data<float>(),
                         [](uint8_t value) { return value / 255.0f; });
  return out;
}

}  // namespace ens::data
