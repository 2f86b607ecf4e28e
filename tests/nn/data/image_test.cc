#include "nn/data/image.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <cmath>
#include <limits>
#include <opencv2/imgcodecs.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/nn/data/files.h"

namespace ens {
namespace {

using namespace test;

// Values k/255, all different, so that 8 bits hold them exactly.
Tensor ramp(int channels, int height, int width) {
  Tensor image = Tensor::empty({channels, height, width});
  for (int64_t i = 0; i < image.numel(); ++i) image.data<float>()[i] = (i * 7 % 256) / 255.0f;
  return image;
}

Bytes jpeg(int height, int width) {
  cv::Mat picture(height, width, CV_8UC3, cv::Scalar(10, 120, 250));
  Bytes bytes;
  cv::imencode(".jpg", picture, bytes);
  return bytes;
}

TEST(Image, PngRoundTripKeepsEveryPixel) {
  const TempDir dir;
  for (const int channels : {1, 3}) {
    const Tensor image = ramp(channels, 5, 9);
    write_png(dir / "a.png", image);
    EXPECT_EQ(read_image(dir / "a.png", channels, 0, 0).to_vector(), image.to_vector());
    EXPECT_EQ(read_image(dir / "a.png", channels, 5, 9, true).to_vector(), image.to_vector());
  }
  EXPECT_FALSE(fs::exists(dir / "a.png.partial"));
}

TEST(Image, ChannelsAreRedGreenBlue) {
  const TempDir dir;
  write_file(dir / "a.jpg", jpeg(8, 8));  // blue 10, green 120, red 250
  const std::vector<float> values = read_image(dir / "a.jpg", 3, 0, 0).to_vector();
  EXPECT_NEAR(values[0] * 255, 250, 4);
  EXPECT_NEAR(values[64] * 255, 120, 4);
  EXPECT_NEAR(values[128] * 255, 10, 4);
  // Grey: the usual weights 0.299, 0.587, 0.114.
  EXPECT_NEAR(read_image(dir / "a.jpg", 1, 0, 0).to_vector()[0] * 255,
              0.299 * 250 + 0.587 * 120 + 0.114 * 10, 4);
}

// Ordinary JPEG and PNG do without OpenCV: to the same pixels.
TEST(Image, DecodesWhatOpencvDecodes) {
  const TempDir dir;
  cv::Mat colour(37, 53, CV_8UC3), grey(37, 53, CV_8UC1);
  cv::randu(colour, 0, 256);
  cv::randu(grey, 0, 256);
  for (const cv::Mat& picture : {colour, grey}) {
    for (const char* ending : {".png", ".jpg", ".bmp"}) {
      for (const int channels : {1, 3}) {
        Bytes bytes;
        cv::imencode(ending, picture, bytes);
        write_file(dir / ("a" + std::string(ending)), bytes);
        const cv::Mat want =
            cv::imdecode(bytes, channels == 1 ? cv::IMREAD_GRAYSCALE : cv::IMREAD_COLOR);
        const Tensor got = read_image(dir / ("a" + std::string(ending)), channels, 0, 0);
        ASSERT_EQ(got.shape(), (Shape{channels, 37, 53}));
        for (int64_t i = 0; i < got.numel(); ++i) {
          const auto c = static_cast<int>(i / (37 * 53)), at = static_cast<int>(i % (37 * 53));
          const int value = want.data[at * channels + (channels - 1 - c)];
          // Grey of colours is rounded in another way.
          ASSERT_NEAR(std::lround(got.data<float>()[i] * 255), value,
                      picture.channels() > channels ? 1 : 0)
              << ending << ", " << channels << " channels of " << picture.channels() << ", " << i;
        }
      }
    }
  }
}

TEST(Image, ZoomRepeatsAndValuesAreClamped) {
  const TempDir dir;
  const Tensor image =
      Tensor::from({-1.0f, 2.0f, 0.5f, std::numeric_limits<float>::quiet_NaN()}, {1, 2, 2});
  write_png(dir / "a.png", image, 3);
  const Tensor back = read_image(dir / "a.png", 1, 0, 0);
  ASSERT_EQ(back.shape(), (Shape{1, 6, 6}));
  const std::vector<float> want{0.0f, 1.0f, 128 / 255.0f, 0.0f};
  for (int y = 0; y < 6; ++y) {
    for (int x = 0; x < 6; ++x) {
      EXPECT_EQ(back.data<float>()[y * 6 + x], want[y / 3 * 2 + x / 3]);
    }
  }
}

TEST(Image, ShrinksByAreaAverage) {
  const TempDir dir;
  write_png(dir / "a.png", Tensor::from({0, 40 / 255.0f, 80 / 255.0f, 120 / 255.0f}, {1, 2, 2}));
  EXPECT_NEAR(read_image(dir / "a.png", 1, 1, 1).item() * 255, 60, 0.5);
  EXPECT_EQ(read_image(dir / "a.png", 3, 4, 6).shape(), (Shape{3, 4, 6}));
}

TEST(Image, SaysWhatIsWrong) {
  const TempDir dir;
  const auto says = [&](const std::string& name, const std::string& part, int channels = 3) {
    const Caught error = caught([&] { read_image(dir / name, channels, 0, 0); });
    EXPECT_TRUE(error.has(part) && error.has((dir / name).string())) << error.text;
  };
  says("none.png", "No such file");
  says("", "folder was given");
  write_text(dir / "empty.png", "");
  says("empty.png", "empty");
  write_text(dir / "text.png", "hello, this is not a picture");
  says("text.png", "not a picture");
  const Bytes whole = jpeg(64, 64);
  write_file(dir / "cut.jpg", Bytes(whole.begin(), whole.begin() + whole.size() / 2));
  says("cut.jpg", "cut off");
  const Bytes png = encode_png(ramp(3, 32, 32));
  write_file(dir / "cut.png", Bytes(png.begin(), png.end() - 30));
  says("cut.png", "cut off");
  write_file(dir / "whole.png", png);
  says("whole.png", "1 (grey) or 3", 4);
  const Caught size = caught([&] { read_image(dir / "whole.png", 3, 16, 24, true); });
  EXPECT_TRUE(size.has("32x32") && size.has("24x16")) << size.text;
}

// ---- the rules of docs/images.md

void put(Bytes& to, uint32_t value, int bytes, bool big_endian) {
  for (int i = 0; i < bytes; ++i) {
    to.push_back(static_cast<uint8_t>(value >> 8 * (big_endian ? bytes - 1 - i : i)));
  }
}

void append(Bytes& to, const Bytes& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

Bytes text(const std::string& s) { return {s.begin(), s.end()}; }

// A directory of TIFF 6.0 with these tags, each one SHORT or LONG value, and `pixels` behind it.
Bytes tiff(const std::vector<std::pair<int, uint32_t>>& tags, const Bytes& pixels,
           bool big_endian = false) {
  Bytes out = text(big_endian ? std::string("MM\0*", 4) : std::string("II*\0", 4));
  put(out, 8, 4, big_endian);
  put(out, static_cast<uint32_t>(tags.size()), 2, big_endian);
  const auto data = static_cast<uint32_t>(8 + 2 + 12 * tags.size() + 4);
  for (const auto& [tag, value] : tags) {
    // BitsPerSample of several samples stands behind the directory; offsets are LONG.
    const bool far = tag == 258 && value > 16, is_long = tag == 273;
    put(out, static_cast<uint32_t>(tag), 2, big_endian);
    put(out, is_long ? 4 : 3, 2, big_endian);
    put(out, far ? value >> 16 : 1, 4, big_endian);
    if (is_long || far) {
      put(out, data + (far ? 0 : 8), 4, big_endian);
    } else {
      put(out, value, 2, big_endian);
      put(out, 0, 2, big_endian);
    }
  }
  put(out, 0, 4, big_endian);
  for (int i = 0; i < 4; ++i) {  // the far bits
    uint32_t bits = 0;
    for (const auto& [tag, value] : tags) bits = tag == 258 ? value & 0xffff : bits;
    put(out, bits, 2, big_endian);
  }
  append(out, pixels);
  return out;
}

// extra: ExtraSamples, or -1; orientation: 0 for none.
Bytes tiff_image(int height, int width, int samples, int bits, const Bytes& pixels, int extra,
                 int orientation) {
  std::vector<std::pair<int, uint32_t>> tags{
      {256, width},
      {257, height},
      {258, samples > 1 ? static_cast<uint32_t>(samples) << 16 | static_cast<uint32_t>(bits)
                        : static_cast<uint32_t>(bits)},
      {259, 1},
      {262, samples > 2 ? 2 : 1},
      {273, 1}};
  if (orientation > 0) tags.emplace_back(274, orientation);
  tags.emplace_back(277, samples);
  tags.emplace_back(278, height);
  tags.emplace_back(279, static_cast<uint32_t>(pixels.size()));
  tags.emplace_back(284, 1);
  if (extra >= 0) tags.emplace_back(338, extra);
  return tiff(tags, pixels);
}

Bytes png_chunk(const std::string& type, const Bytes& data) {
  Bytes out;
  put(out, static_cast<uint32_t>(data.size()), 4, true);
  Bytes body = text(type);
  append(body, data);
  append(out, body);
  put(out, static_cast<uint32_t>(crc32(0, body.data(), static_cast<uInt>(body.size()))), 4, true);
  return out;
}

// Rows of samples as PNG stores them; `chunks` stand before the pixels.
Bytes png(uint32_t height, uint32_t width, int bits, int colour_type, const Bytes& rows,
          const std::vector<Bytes>& chunks = {}) {
  Bytes header;
  put(header, width, 4, true);
  put(header, height, 4, true);
  append(header, {static_cast<uint8_t>(bits), static_cast<uint8_t>(colour_type), 0, 0, 0});
  Bytes filtered;
  const size_t row = rows.size() / height;
  for (size_t y = 0; y < height && row > 0; ++y) {
    filtered.push_back(0);
    filtered.insert(filtered.end(), rows.begin() + static_cast<ptrdiff_t>(y * row),
                    rows.begin() + static_cast<ptrdiff_t>((y + 1) * row));
  }
  uLongf size = compressBound(filtered.size());
  Bytes packed(size);
  compress(packed.data(), &size, filtered.data(), filtered.size());
  packed.resize(size);
  Bytes out = text("\x89PNG\r\n\x1a\n");
  append(out, png_chunk("IHDR", header));
  for (const Bytes& chunk : chunks) append(out, chunk);
  append(out, png_chunk("IDAT", packed));
  append(out, png_chunk("IEND", {}));
  return out;
}

Bytes exif(int orientation, bool big_endian) {
  return tiff({{274, static_cast<uint32_t>(orientation)}}, {}, big_endian);
}

Bytes encoded(const char* ending, const cv::Mat& picture) {
  Bytes bytes;
  cv::imencode(ending, picture, bytes,
               std::string(ending) == ".webp" ? std::vector<int>{cv::IMWRITE_WEBP_QUALITY, 101}
                                              : std::vector<int>{});
  return bytes;
}

// The picture in each format that has an orientation.
Bytes with_orientation(const std::string& format, const cv::Mat& grey, int orientation,
                       bool big_endian) {
  const Bytes block = exif(orientation, big_endian);
  Bytes out;
  if (format == "png") {
    return png(static_cast<uint32_t>(grey.rows), static_cast<uint32_t>(grey.cols), 8, 0,
               Bytes(grey.datastart, grey.dataend), {png_chunk("eXIf", block)});
  }
  if (format == "jpg") {
    const Bytes plain = encoded(".jpg", grey);
    out = {0xff, 0xd8, 0xff, 0xe1};
    put(out, static_cast<uint32_t>(block.size()) + 8, 2, true);
    append(out, text(std::string("Exif\0\0", 6)));
    append(out, block);
    out.insert(out.end(), plain.begin() + 2, plain.end());
    return out;
  }
  if (format == "webp") {
    const Bytes plain = encoded(".webp", grey);
    Bytes body = text("WEBPVP8X");
    put(body, 10, 4, false);
    put(body, 8, 4, false);  // flag: has Exif
    put(body, static_cast<uint32_t>(grey.cols) - 1, 3, false);
    put(body, static_cast<uint32_t>(grey.rows) - 1, 3, false);
    body.insert(body.end(), plain.begin() + 12, plain.end());
    append(body, text("EXIF"));
    put(body, static_cast<uint32_t>(block.size()), 4, false);
    append(body, block);
    out = text("RIFF");
    put(out, static_cast<uint32_t>(body.size()), 4, false);
    append(out, body);
    return out;
  }
  return tiff_image(grey.rows, grey.cols, 1, 8, Bytes(grey.datastart, grey.dataend), -1,
                    orientation);
}

class ImageRules : public testing::Test {
 protected:
  fs::path file(const Bytes& bytes) {
    write_file(dir / "a", bytes);
    return dir / "a";
  }
  // Values of 0 to 255, plane after plane.
  std::vector<int> read(const Bytes& bytes, int channels) {
    std::vector<int> out;
    for (const float v : read_image(file(bytes), channels, 0, 0).to_vector()) {
      out.push_back(static_cast<int>(std::lround(v * 255)));
    }
    return out;
  }
  const TempDir dir;
};

// What Exif 2.32 says of tag 274: where the stored 0th row and 0th column are seen.
TEST_F(ImageRules, ExifOrientationTurnsEveryFormat) {
  constexpr int kCell = 16, kRows = 2, kColumns = 3;
  const auto grey_of = [](int y, int x) { return 40 * (y * kColumns + x) + 20; };
  for (const std::string format : {"png", "jpg", "webp", "tif"}) {
    for (int orientation = 1; orientation <= 8; ++orientation) {
      const bool swapped = orientation >= 5;
      const int rows = swapped ? kColumns : kRows, columns = swapped ? kRows : kColumns;
      cv::Mat stored(rows * kCell, columns * kCell, CV_8UC1);
      for (int r = 0; r < stored.rows; ++r) {
        for (int c = 0; c < stored.cols; ++c) {
          const int row = r / kCell, column = c / kCell;
          // 0th row: 1 and 2 top, 3 and 4 bottom, 5 and 8 left, 6 and 7 right.
          // 0th column: 1 and 4 left, 2 and 3 right, 5 and 6 top, 7 and 8 bottom.
          const bool row_far =
              orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
          const bool column_far =
              orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
          const int along_row = row_far ? rows - 1 - row : row;
          const int along_column = column_far ? columns - 1 - column : column;
          stored.at<uint8_t>(r, c) = static_cast<uint8_t>(
              swapped ? grey_of(along_column, along_row) : grey_of(along_row, along_column));
        }
      }
      const Tensor got = read_image(
          file(with_orientation(format, stored, orientation, orientation % 2 == 0)), 1, 0, 0);
      ASSERT_EQ(got.shape(), (Shape{1, kRows * kCell, kColumns * kCell})) << format << orientation;
      for (int y = 0; y < kRows; ++y) {
        for (int x = 0; x < kColumns; ++x) {
          const int64_t at = (y * kCell + kCell / 2) * kColumns * kCell + x * kCell + kCell / 2;
          EXPECT_NEAR(got.data<float>()[at] * 255, grey_of(y, x), 4)
              << format << ", orientation " << orientation << ", " << y << ", " << x;
        }
      }
    }
  }
}

TEST_F(ImageRules, DamagedExifIsPassedOver) {
  for (const Bytes& block : {Bytes{}, text("II*"), text(std::string("II*\0\xff\xff\xff\xff", 8)),
                             exif(0, true), exif(9, false)}) {
    EXPECT_EQ(read(png(1, 2, 8, 0, {10, 20}, {png_chunk("eXIf", block)}), 1),
              (std::vector<int>{10, 20}));
  }
}

// Red 200, green 100, blue 50, half transparent and then not to be seen at all, on white.
TEST_F(ImageRules, TransparentPicturesAreCompositedOnWhite) {
  const auto over_white = [](int value, int alpha) {
    return static_cast<int>(std::lround((value * alpha + 255.0 * (255 - alpha)) / 255));
  };
  const std::vector<int> want{over_white(200, 128), 255, over_white(100, 128), 255,
                              over_white(50, 128),  255};
  EXPECT_EQ(read(png(1, 2, 8, 6, {200, 100, 50, 128, 9, 200, 3, 0}), 3), want);
  const Bytes deep{200, 200, 100, 100, 50, 50, 128, 128, 9, 0, 200, 0, 3, 0, 0, 0};
  EXPECT_EQ(read(png(1, 2, 16, 6, deep), 3), want);
  cv::Mat bgra(1, 2, CV_8UC4);
  bgra.at<cv::Vec4b>(0, 0) = {50, 100, 200, 128};
  bgra.at<cv::Vec4b>(0, 1) = {3, 200, 9, 0};
  EXPECT_EQ(read(encoded(".webp", bgra), 3), want);
  EXPECT_EQ(read(encoded(".png", bgra), 3), want);
  EXPECT_EQ(read(tiff_image(1, 2, 4, 8, {200, 100, 50, 128, 9, 200, 3, 0}, -1, 0), 3), want);
  EXPECT_EQ(read(tiff_image(1, 2, 4, 16, deep, 2, 0), 3), want);
  // libtiff multiplies and rounds once more.
  const auto near = read(tiff_image(1, 2, 4, 8, {200, 100, 50, 128, 9, 200, 3, 0}, 2, 0), 3);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(near[i], want[i], 1) << i;
  // Associated alpha: colours are stored multiplied.
  EXPECT_EQ(read(tiff_image(1, 1, 4, 8, {100, 50, 25, 128}, 1, 0), 3),
            (std::vector<int>{227, 177, 152}));
  // A fourth sample that is no alpha.
  EXPECT_EQ(read(tiff_image(1, 1, 4, 8, {100, 50, 25, 0}, 0, 0), 3),
            (std::vector<int>{100, 50, 25}));

  const std::vector<int> grey{over_white(90, 128), 255};
  EXPECT_EQ(read(png(1, 2, 8, 4, {90, 128, 7, 0}), 1), grey);
  EXPECT_EQ(read(png(1, 2, 8, 4, {90, 128, 7, 0}), 3),
            (std::vector<int>{grey[0], 255, grey[0], 255, grey[0], 255}));
  // A palette of four colours; one grey, and one colour, that means transparent.
  const Bytes palette = png_chunk("PLTE", {200, 100, 50, 9, 200, 3, 10, 20, 30, 40, 50, 60});
  EXPECT_EQ(read(png(1, 2, 8, 3, {0, 1}, {palette, png_chunk("tRNS", {128, 0})}), 3), want);
  EXPECT_EQ(read(png(1, 3, 2, 3, {0b00'10'11'00}, {palette, png_chunk("tRNS", {0})}), 3),
            (std::vector<int>{255, 10, 40, 255, 20, 50, 255, 30, 60}));
  EXPECT_EQ(read(png(1, 2, 8, 0, {7, 90}, {png_chunk("tRNS", {0, 7})}), 1),
            (std::vector<int>{255, 90}));
  EXPECT_EQ(read(png(1, 1, 8, 2, {1, 2, 3}, {png_chunk("tRNS", {0, 1, 0, 2, 0, 3})}), 3),
            (std::vector<int>{255, 255, 255}));
}

TEST_F(ImageRules, SixteenBitsAreRoundedToEight) {
  EXPECT_EQ(read(png(1, 3, 16, 0, {0x80, 0x80, 0xff, 0xff, 0x00, 0xff}), 1),
            (std::vector<int>{128, 255, 1}));
  EXPECT_EQ(read(tiff_image(1, 2, 1, 16, {0x80, 0x80, 0xff, 0xff}, -1, 0), 1),
            (std::vector<int>{128, 255}));
  EXPECT_EQ(read(text(std::string("P5\n2 1\n1023\n\x03\xff\x02\x00", 16)), 1),
            (std::vector<int>{255, 128}));
  EXPECT_EQ(read(text("P5\n# a comment\n2 1\n100\n\x64\x32"), 1), (std::vector<int>{255, 128}));
  EXPECT_EQ(read(text("P2\n2 1\n1023\n1023 512\n"), 1), (std::vector<int>{255, 128}));
  EXPECT_EQ(read(text("P2\n2 1\n100\n100 20\n"), 1), (std::vector<int>{255, 51}));
}

// Files of a few bytes that announce 24,000 x 24,000 pixels, and ones whose product overflows.
TEST_F(ImageRules, LargePicturesAreRefusedFromTheHeader) {
  Bytes jpeg_bytes = jpeg(16, 16);
  const std::array<uint8_t, 2> frame{0xff, 0xc0};
  const auto at = std::ranges::search(jpeg_bytes, frame).begin();
  ASSERT_NE(at, jpeg_bytes.end());
  std::fill_n(at + 5, 4, uint8_t{0xe0});
  Bytes bmp = encoded(".bmp", cv::Mat(4, 4, CV_8UC3, cv::Scalar(1, 2, 3)));
  bmp[19] = bmp[23] = 0x60;
  Bytes webp = with_orientation("webp", cv::Mat(4, 4, CV_8UC1, cv::Scalar(9)), 1, false);
  webp[25] = webp[28] = 0x60;
  const Bytes row(8, 0);
  Bytes tiled = tiff({{256, 8}, {257, 8}, {258, 8}, {322, 24000}, {323, 24000}}, row);
  for (const Bytes& bytes :
       {png(24000, 24000, 8, 0, {}), png(0x7fffffff, 0x7fffffff, 8, 6, {}), jpeg_bytes, bmp, webp,
        tiff({{256, 24000}, {257, 24000}, {258, 8}}, row), tiled, text("P6 24000 24000 255\n"),
        text("P1 99999999999999999999 24000\n")}) {
    rusage before{}, after{};
    getrusage(RUSAGE_SELF, &before);
    const Caught error = caught([&] { read_image(file(bytes), 3, 8, 8); });
    getrusage(RUSAGE_SELF, &after);
    EXPECT_TRUE(error.has("67108864")) << error.text;
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 32 << 10) << error.text;  // KiB
  }
  EXPECT_TRUE(caught([&] {
                read_image(file(tiff_image(1, 1, 2, 8, {1, 2}, 2, 0)), 1, 0, 0);
              }).has("2 samples a pixel"));
}

// The libraries have their own lines for stderr: ours is the only one.
TEST_F(ImageRules, DamageIsOneError) {
  Bytes bad_crc = png(2, 2, 8, 0, {1, 2, 3, 4});
  bad_crc[bad_crc.size() - 13] ^= 1;  // of IDAT
  std::vector<Bytes> damaged{bad_crc, text("P6 4 4 255\nab"),
                             tiff_image(64, 64, 1, 8, {1, 2, 3}, -1, 0)};
  for (const char* ending : {".tiff", ".webp", ".bmp", ".jpg"}) {
    cv::Mat noise(64, 64, CV_8UC3);
    cv::randu(noise, 0, 256);
    Bytes bytes = encoded(ending, noise);
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(bytes.size() / 2),
              bytes.end() - (std::string(ending) == ".jpg" ? 2 : 0), uint8_t{0x55});
    damaged.push_back(bytes);
  }
  testing::internal::CaptureStderr();
  EXPECT_TRUE(caught([&] { read_image(file(damaged[0]), 1, 0, 0); }).has("CRC"));
  for (const Bytes& bytes : damaged) {
    try {
      read_image(file(bytes), 3, 0, 0);
    } catch (const Error&) {  // or as much of it as there is
    }
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// 12 x 4 pixels: black, white in the middle square, black.
TEST_F(ImageRules, FitCropsOrStretches) {
  Bytes rows;
  for (int i = 0; i < 48; ++i) rows.push_back(i % 12 / 4 == 1 ? 255 : 0);
  const fs::path wide = file(png(4, 12, 8, 0, rows));
  const auto mean = [](const Tensor& image) {
    double sum = 0;
    for (const float v : image.to_vector()) sum += v;
    return sum / static_cast<double>(image.numel());
  };
  EXPECT_EQ(mean(read_image(wide, 1, 4, 4, false, ImageFit::kCrop)), 1);
  EXPECT_NEAR(mean(read_image(wide, 1, 4, 4, false, ImageFit::kStretch)), 1.0 / 3, 0.01);
  EXPECT_EQ(mean(read_image(wide, 1, 2, 2, false, ImageFit::kCrop)), 1);
  // Twice as wide as high: the middle 8 columns.
  EXPECT_NEAR(mean(read_image(wide, 1, 4, 8, false, ImageFit::kCrop)), 0.5, 1e-6);
  // From memory: every other row of an image with padding.
  EXPECT_EQ(fit_image(rows.data(), 1, 4, 12, 12, 1, 4, 4, ImageFit::kCrop).to_vector(),
            std::vector<float>(16, 1.0f));
  EXPECT_EQ(fit_image(rows.data(), 1, 2, 12, 24, 3, 2, 2, ImageFit::kCrop).to_vector(),
            std::vector<float>(12, 1.0f));
  const Bytes hidden{1, 2, 3, 0};
  EXPECT_EQ(fit_image(hidden.data(), 4, 1, 1, 4, 3, 1, 1, ImageFit::kCrop).to_vector(),
            std::vector<float>(3, 1.0f));
  EXPECT_TRUE(caught([&] {
                fit_image(rows.data(), 1, 4, 12, 11, 1, 4, 4, ImageFit::kCrop);
              }).has("rows of 11 bytes"));
  EXPECT_EQ(caught([] { parse_fit("squeeze", "data.fit"); }).kind, Error::Kind::kUsage);
}

TEST(Image, ListsPicturesSorted) {
  const TempDir dir;
  for (const char* name : {"b.PNG", "a.jpg", "c.txt", "d.jpeg", "._a.jpg", ".b.png"})
    write_text(dir / name, "x");
  fs::create_directories(dir / "e.png");
  const std::vector<fs::path> want{dir / "a.jpg", dir / "b.PNG", dir / "d.jpeg"};
  EXPECT_EQ(list_images(dir.path()), want);
  EXPECT_TRUE(caught([&] { list_images(dir / "none"); }).has("none"));
}

TEST(Image, RefusesWrongShapesAndUnwritableFiles) {
  const TempDir dir;
  EXPECT_TRUE(caught([] { encode_png(Tensor::zeros({2, 4, 4})); }).has("[2, 4, 4]"));
  EXPECT_TRUE(caught([] { encode_png(Tensor::zeros({4, 4})); }).has("[4, 4]"));
  EXPECT_TRUE(caught([] { encode_png(Tensor::zeros({1, 4, 4}), 0); }).has("zoom"));
  const Caught error = caught([&] { write_png(dir / "none" / "a.png", Tensor::zeros({1, 4, 4})); });
  EXPECT_TRUE(error.has("cannot write") && error.has("none/a.png")) << error.text;
}

}  // namespace
}  // namespace ens
