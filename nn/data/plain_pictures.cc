#include "nn/data/plain_pictures.h"

#include <png.h>
#include <turbojpeg.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace ens::data {
namespace {

struct PngSource {
  const std::vector<uint8_t>& bytes;
  size_t at = 0;
};

void read_png_bytes(png_structp png, png_bytep to, size_t count) {
  PngSource& source = *static_cast<PngSource*>(png_get_io_ptr(png));
  if (source.bytes.size() - source.at < count) png_error(png, "the file is cut off");
  std::memcpy(to, source.bytes.data() + source.at, count);
  source.at += count;
}

// libpng reports an error by longjmp, which must not pass an object with a destructor: all of
// those belong to the caller.
bool read_png(png_structp png, png_infop info, Raster& out, std::vector<png_bytep>& rows) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_read_info(png, info);
  png_set_expand(png);  // palette to RGB, bits to bytes, tRNS to alpha
  png_set_scale_16(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  out.channels = png_get_channels(png, info);
  out.width = static_cast<int>(png_get_image_width(png, info));
  out.height = static_cast<int>(png_get_image_height(png, info));
  const size_t row = png_get_rowbytes(png, info);
  out.values.resize(row * static_cast<size_t>(out.height));
  rows.resize(static_cast<size_t>(out.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = out.values.data() + y * row;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

}  // namespace

std::optional<Raster> decode_png(const std::vector<uint8_t>& bytes, std::string& why) {
  const auto on_error = [](png_structp png, png_const_charp message) {
    *static_cast<std::string*>(png_get_error_ptr(png)) = message;
    png_longjmp(png, 1);
  };
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &why, on_error,
                                           [](png_structp, png_const_charp) {});
  if (!png) return {};
  PngSource source{bytes};
  png_set_read_fn(png, &source, read_png_bytes);
  png_infop info = png_create_info_struct(png);
  Raster out;
  std::vector<png_bytep> rows;
  const bool whole = info && read_png(png, info, out, rows);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!whole) return {};
  return out;
}

std::optional<Raster> decode_jpeg(const std::vector<uint8_t>& bytes, int channels,
                                  std::string& why) {
  const std::unique_ptr<void, int (*)(tjhandle)> reader(tjInitDecompress(), tjDestroy);
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (!reader || tjDecompressHeader3(reader.get(), bytes.data(), bytes.size(), &width, &height,
                                     &subsampling, &colours) != 0) {
    why = tjGetErrorStr2(reader.get());
    return {};
  }
  if (colours == TJCS_CMYK || colours == TJCS_YCCK) return {};
  const bool grey = colours == TJCS_GRAY || (channels == 1 && colours != TJCS_RGB);
  Raster out{grey ? 1 : 3, height, width, {}};
  out.values.resize(static_cast<size_t>(width) * static_cast<size_t>(height) *
                    static_cast<size_t>(out.channels));
  // A warning is what other programs pass over too: the picture is there.
  if (tjDecompress2(reader.get(), bytes.data(), bytes.size(), out.values.data(), width, 0, height,
                    grey ? TJPF_GRAY : TJPF_RGB, 0) != 0 &&
      tjGetErrorCode(reader.get()) != TJERR_WARNING) {
    why = tjGetErrorStr2(reader.get());
    return {};
  }
  return out;
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
