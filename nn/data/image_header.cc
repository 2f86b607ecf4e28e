#include "nn/data/image_header.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace ens::data {
namespace {

// Numbers at any offset of a part of the file; 0 beyond its end.
class View {
 public:
  View(const uint8_t* data, size_t size, bool big_endian)
      : data_(data), size_(size), big_(big_endian) {}

  size_t size() const { return size_; }
  bool big_endian() const { return big_; }
  uint32_t number(size_t at, size_t bytes) const {
    if (at > size_ || size_ - at < bytes) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value = value << 8 | data_[at + (big_ ? i : bytes - 1 - i)];
    }
    return value;
  }
  uint32_t u8(size_t at) const { return number(at, 1); }
  uint32_t u16(size_t at) const { return number(at, 2); }
  uint32_t u32(size_t at) const { return number(at, 4); }
  bool holds(size_t at, std::string_view text) const {
    return at <= size_ && size_ - at >= text.size() &&
           std::memcmp(data_ + at, text.data(), text.size()) == 0;
  }
  View from(size_t at, size_t most, bool big_endian) const {
    at = std::min(at, size_);
    return {data_ + at, std::min(most, size_ - at), big_endian};
  }

 private:
  const uint8_t* data_;
  size_t size_;
  bool big_;
};

// The first directory of a TIFF file, which is also the form of Exif data (TIFF 6.0, section 2).
class Tags {
 public:
  explicit Tags(const View& file)
      : file_(file.from(0, file.size(), file.holds(0, "MM"))),
        valid_(file.holds(0, std::string_view("II*\0", 4)) ||
               file.holds(0, std::string_view("MM\0*", 4))) {}

  bool valid() const { return valid_; }
  // Where the tag's only value of 1, 2 or 4 bytes is, or the first of several that fit in 4 bytes.
  std::optional<size_t> place(uint32_t tag) const {
    const size_t directory = file_.u32(4), count = file_.u16(directory);
    for (size_t i = 0; valid_ && i < count; ++i) {
      const size_t entry = directory + 2 + 12 * i;
      if (entry + 12 > file_.size()) break;
      if (file_.u16(entry) == tag) return entry + 8;
    }
    return {};
  }
  // `missing` also where the values lie elsewhere in the file.
  uint32_t value(uint32_t tag, uint32_t missing) const {
    const auto at = place(tag);
    if (!at) return missing;
    switch (file_.u16(*at - 6)) {  // its type: BYTE, SHORT or LONG
      case 1:
        return file_.u8(*at);
      case 3:
        return file_.u32(*at - 4) > 2 ? file_.u16(file_.u32(*at)) : file_.u16(*at);
      case 4:
        return file_.u32(*at - 4) > 1 ? missing : file_.u32(*at);
      default:
        return missing;
    }
  }
  int orientation() const {
    const uint32_t value = this->value(274, 1);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  bool big_endian() const { return file_.big_endian(); }

 private:
  View file_;
  bool valid_;
};

// Exif data with or without the mark that JPEG puts before it.
int exif_orientation(const View& data) {
  const size_t mark = data.holds(0, std::string_view("Exif\0\0", 6)) ? 6 : 0;
  return Tags(data.from(mark, data.size(), true)).orientation();
}

// Segments up to the first frame header (ITU T.81, annex B).
std::optional<ImageHeader> jpeg(const View& file) {
  ImageHeader header{.format = ImageFormat::kJpeg};
  for (size_t at = 2; at + 4 <= file.size();) {
    if (file.u8(at) != 0xff) return {};
    const uint32_t marker = file.u8(at + 1);
    if (marker == 0xff) {  // fill bytes
      ++at;
      continue;
    }
    if (marker == 0xd8 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7)) {
      at += 2;
      continue;
    }
    const size_t length = file.u16(at + 2);
    if (length < 2) return {};
    if (marker == 0xe1 && file.holds(at + 4, std::string_view("Exif\0", 5))) {
      header.orientation = exif_orientation(file.from(at + 4, length - 2, true));
    }
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
      header.height = file.u16(at + 5);
      header.width = file.u16(at + 7);
      return header;
    }
    if (marker == 0xda || marker == 0xd9) return {};
    at += 2 + length;
  }
  return {};
}

std::optional<ImageHeader> png(const View& file) {
  if (!file.holds(12, "IHDR")) return {};
  ImageHeader header{.format = ImageFormat::kPng, .width = file.u32(16), .height = file.u32(20)};
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t length = file.u32(at);
    if (file.holds(at + 4, "eXIf")) {
      header.orientation = exif_orientation(file.from(at + 8, length, true));
    }
    at += 12 + length;
  }
  return header;
}

std::optional<ImageHeader> bmp(const View& file) {
  ImageHeader header{.format = ImageFormat::kBmp, .alpha = Alpha::kIgnored};
  if (file.u32(14) == 12) {
    header.width = file.u16(18);
    header.height = file.u16(20);
  } else {
    header.width = static_cast<int32_t>(file.u32(18));
    header.height = std::abs(int64_t{static_cast<int32_t>(file.u32(22))});  // negative: top first
  }
  return header;
}

std::optional<ImageHeader> tiff(const View& file) {
  const Tags tags(file);
  ImageHeader header{.format = ImageFormat::kTiff,
                     .width = tags.value(256, 0),
                     .height = tags.value(257, 0),
                     .buffer_pixels = int64_t{tags.value(322, 0)} * tags.value(323, 0),
                     .orientation = tags.orientation(),
                     .orientation_at = tags.place(274),
                     .big_endian = tags.big_endian()};
  constexpr uint32_t kNone = 99;
  const uint32_t bits = tags.value(258, 1), samples = tags.value(277, 1);
  const uint32_t extra = tags.value(338, kNone);
  // libtiff multiplies 8-bit colours by alpha; 16-bit ones are left as they are.
  if (extra == 1 || (extra == 2 && bits == 8)) header.alpha = Alpha::kPremultiplied;
  if (extra == 0) header.alpha = Alpha::kIgnored;
  if (bits > 16 || tags.value(339, 1) > 2) header.unreadable = "has more than 16 bits a sample";
  if (samples == 2 || samples > 4) {
    header.unreadable = "is a TIFF of " + std::to_string(samples) + " samples a pixel";
  }
  return header;
}

std::optional<ImageHeader> webp(const View& file) {
  ImageHeader header{.format = ImageFormat::kWebp};
  for (size_t at = 12; at + 8 <= file.size();) {
    const size_t length = file.u32(at + 4), body = at + 8;
    if (file.holds(at, "VP8X")) {
      header.width = file.number(body + 4, 3) + 1;
      header.height = file.number(body + 7, 3) + 1;
    } else if (file.holds(at, "VP8 ") && header.width == 0) {
      header.width = file.u16(body + 6) & 0x3fff;
      header.height = file.u16(body + 8) & 0x3fff;
    } else if (file.holds(at, "VP8L") && header.width == 0) {
      const uint32_t both = file.u32(body + 1);
      header.width = (both & 0x3fff) + 1;
      header.height = (both >> 14 & 0x3fff) + 1;
    } else if (file.holds(at, "EXIF")) {
      header.orientation = exif_orientation(file.from(body, length, true));
    }
    at = body + length + length % 2;
  }
  return header;
}

std::optional<ImageHeader> pnm(const View& file) {
  const uint32_t kind = file.u8(1) - '0';  // 1 to 3: text, 4 to 6: binary; 1 and 4: bits
  size_t at = 2;
  const auto number = [&]() -> int64_t {
    while (at < file.size()) {
      if (file.u8(at) == '#') {
        while (at < file.size() && file.u8(at) != '\n') ++at;
      } else if (std::strchr(" \t\r\n\v\f", static_cast<int>(file.u8(at))) && file.u8(at)) {
        ++at;
      } else {
        break;
      }
    }
    int64_t value = 0;
    for (; file.u8(at) >= '0' && file.u8(at) <= '9' && value < (1 << 28); ++at) {
      value = value * 10 + file.u8(at) - '0';
    }
    return value;
  };
  ImageHeader header{.format = ImageFormat::kPnm};
  header.width = number();
  header.height = number();
  if (kind % 3 == 1) return header;
  const int64_t most = number();
  if (most < 1 || most > 65535) return {};
  // OpenCV scales the samples of text to 8 bits, but neither those of binary files nor 16 bits.
  if (kind > 3 || most > 255) header.max_value = static_cast<int>(most);
  return header;
}

}  // namespace

std::optional<ImageHeader> read_header(const std::vector<uint8_t>& bytes) {
  const View big(bytes.data(), bytes.size(), true), little(bytes.data(), bytes.size(), false);
  std::optional<ImageHeader> header;
  if (big.holds(0, "\xff\xd8")) header = jpeg(big);
  if (big.holds(0, "\x89PNG\r\n\x1a\n")) header = png(big);
  if (big.holds(0, "BM")) header = bmp(little);
  if (Tags(little).valid()) header = tiff(little);
  if (big.holds(0, "RIFF") && big.holds(8, "WEBP")) header = webp(little);
  if (big.holds(0, "P") && big.u8(1) >= '1' && big.u8(1) <= '6') header = pnm(big);
  if (header && (header->width < 1 || header->height < 1)) return {};
  return header;
}

}  // namespace ens::data
