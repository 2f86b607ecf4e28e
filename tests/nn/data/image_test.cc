#include "nn/data/image.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <opencv2/imgcodecs.hpp>

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
          ASSERT_EQ(std::lround(got.data<float>()[i] * 255), value)
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

TEST(Image, ListsPicturesSorted) {
  const TempDir dir;
  for (const char* name : {"b.PNG", "a.jpg", "c.txt", "d.jpeg"}) write_text(dir / name, "x");
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
