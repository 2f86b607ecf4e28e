#include "nn/data/pixels.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "nn/data/codecs.h"
#include "nn/data/plain_pictures.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPictureHint = "give a JPEG, PNG, BMP, TIFF, WebP or PNM picture";

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
  return {std::istreambuf_iterator<char>(in), {}};
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

}  // namespace

Pixels read_pixels(const fs::path& file, int channels) {
  if (channels != 1 && channels != 3) {
    usage_fail("pictures have 1 (grey) or 3 (RGB) channels, not " + std::to_string(channels),
               file.string());
  }
  const std::vector<uint8_t> bytes = slurp(file);
  if (bytes.empty()) fail("picture file is empty", file.string(), kPictureHint);
  if (cut_off(bytes)) fail("picture file is cut off", file.string(), "copy it again");
  if (std::optional<Pixels> plain = decode_plain(bytes, channels)) return *std::move(plain);
  const Codecs& decoders = codecs();
  Pixels out;
  try {
    out = decoders.decode(bytes.data(), bytes.size(), channels);
  } catch (const std::exception& e) {
    fail(std::string("cannot decode picture: ") + e.what(), file.string(), kPictureHint);
  }
  if (out.width == 0) fail("not a picture that can be read", file.string(), kPictureHint);
  return out;
}

void resize(const uint8_t* from, int channels, int height, int width, uint8_t* to, int to_height,
            int to_width) {
  const bool shrinks = to_height <= height && to_width <= width;
  for (int c = 0; c < channels; ++c) {
    const cv::Mat source(height, width, CV_8UC1,
                         const_cast<uint8_t*>(from + int64_t{c} * height * width));
    cv::Mat target(to_height, to_width, CV_8UC1, to + int64_t{c} * to_height * to_width);
    cv::resize(source, target, target.size(), 0, 0, shrinks ? cv::INTER_AREA : cv::INTER_LINEAR);
  }
}

Pixels resize(const Pixels& image, int height, int width) {
  if (image.height == height && image.width == width) return image;
  Pixels out{image.channels, height, width, {}};
  out.values.resize(static_cast<size_t>(image.channels) * height * width);
  resize(image.values.data(), image.channels, image.height, image.width, out.values.data(), height,
         width);
  return out;
}

Pixels centre_square(const Pixels& image) {
  const int side = std::min(image.height, image.width);
  if (image.height == image.width) return image;
  const int top = (image.height - side) / 2, left = (image.width - side) / 2;
  Pixels out{image.channels, side, side, {}};
  out.values.reserve(static_cast<size_t>(image.channels) * side * side);
  for (int c = 0; c < image.channels; ++c) {
    for (int y = top; y < top + side; ++y) {
      const uint8_t* row =
          image.values.data() + (int64_t{c} * image.height + y) * image.width + left;
      out.values.insert(out.values.end(), row, row + side);
    }
  }
  return out;
}

Tensor to_tensor(const Pixels& image) {
  Tensor out = Tensor::empty({image.channels, image.height, image.width});
  std::ranges::transform(image.values, out.data<float>(),
                         [](uint8_t value) { return value / 255.0f; });
  return out;
}

}  // namespace ens::data
