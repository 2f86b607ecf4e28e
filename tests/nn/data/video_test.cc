#include "nn/data/video.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <thread>

#include "base/error.h"
#include "nn/data/image.h"
#include "tests/nn/data/clips.h"
#include "tests/support/listener.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

using test::TempDir;

VideoOptions of_side(int side) {
  VideoOptions options;
  options.side = side;
  return options;
}

TEST(Video, GivesTheSquareInTheMiddleOfEachFrame) {
  const TempDir dir;
  const auto squares = test::write_clip(dir / "clip.avi", 7, 40, 24);
  Video video((dir / "clip.avi").string(), of_side(24));
  EXPECT_FALSE(video.live());
  Frame frame;
  for (int64_t i = 0; i < 7; ++i) {
    ASSERT_TRUE(video.next(frame));
    EXPECT_EQ(frame.number, i);
    EXPECT_NEAR(frame.seconds, static_cast<double>(i) / 10, 1e-9);
    const auto got = frame.image.to_vector();
    const auto want = squares[static_cast<size_t>(i)].to_vector();
    double off = 0;
    for (size_t k = 0; k < want.size(); ++k) off += std::abs(got[k] - want[k]);
    EXPECT_LT(off / static_cast<double>(want.size()), 0.02) << i;
  }
  EXPECT_FALSE(video.next(frame));
  EXPECT_EQ(video.dropped(), 0);
}

TEST(Video, ALiveSourceKeepsOnlyTheNewestFrame) {
  const TempDir dir;
  test::write_clip(dir / "clip.avi", 20, 32, 24);  // two seconds
  VideoOptions options = of_side(16);
  options.live = true;
  Video video((dir / "clip.avi").string(), options);
  Frame frame;
  int64_t taken = 0, last = -1;
  while (video.next(frame)) {
    EXPECT_GT(frame.number, last);
    last = frame.number;
    ++taken;
    std::this_thread::sleep_for(std::chrono::milliseconds(350));  // slower than ten a second
  }
  EXPECT_EQ(last, 19);
  EXPECT_LT(taken, 15);
  EXPECT_EQ(taken + video.dropped(), 20);
}

TEST(Video, StopEndsIt) {
  const TempDir dir;
  test::write_clip(dir / "clip.avi", 300, 32, 24);
  VideoOptions options = of_side(16);
  options.live = true;
  Video video((dir / "clip.avi").string(), options);
  Frame frame;
  ASSERT_TRUE(video.next(frame));
  video.stop();
  EXPECT_FALSE(video.next(frame));
}

// The same bytes as a picture and as a frame.
TEST(Video, FramesAreFittedAsPicturesAre) {
  const TempDir dir;
  cv::Mat scene(24, 64, CV_8UC3);
  for (int y = 0; y < scene.rows; ++y) {
    for (int x = 0; x < scene.cols; ++x) {
      scene.at<cv::Vec3b>(y, x) = {static_cast<uint8_t>(x * 3), static_cast<uint8_t>(y * 8), 90};
    }
  }
  std::vector<uint8_t> bytes;
  cv::imencode(".jpg", scene, bytes, {cv::IMWRITE_JPEG_QUALITY, 100});
  for (const char* name : {"wide.jpg", "wide.mjpeg"}) {
    std::ofstream out(dir / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
  std::vector<std::vector<float>> pictures;
  for (const ImageFit fit : {ImageFit::kCrop, ImageFit::kStretch}) {
    VideoOptions options = of_side(16);
    options.fit = fit;
    Video video((dir / "wide.mjpeg").string(), options);
    Frame frame;
    ASSERT_TRUE(video.next(frame));
    const auto got = frame.image.to_vector();
    pictures.push_back(read_image(dir / "wide.jpg", 3, 16, 16, false, fit).to_vector());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], pictures.back()[i], 0.03) << i;
  }
  EXPECT_GT(
      std::abs(pictures[0][0] - pictures[1][0]) + std::abs(pictures[0][512] - pictures[1][512]),
      0.1);  // the two differ at the left
}

// Raw motion JPEG: pictures one after the other, of whatever size.
TEST(Video, FramesMayChangeTheirSize) {
  const TempDir dir;
  std::ofstream out(dir / "clip.mjpeg", std::ios::binary);
  for (int i = 0; i < 12; ++i) {
    const cv::Mat frame(i < 6 ? 48 : 32, i < 6 ? 64 : 96, CV_8UC3, cv::Scalar(20, 120, 20 * i));
    std::vector<uint8_t> bytes;
    cv::imencode(".jpg", frame, bytes);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
  out.close();
  Video video((dir / "clip.mjpeg").string(), of_side(16));
  Frame frame;
  int count = 0;
  for (; video.next(frame); ++count) {
    EXPECT_EQ(frame.image.shape(), (Shape{3, 16, 16}));
    EXPECT_NEAR(frame.image.to_vector()[0] * 255, 20 * count, 8);
  }
  EXPECT_EQ(count, 12);
}

// A server that takes the connection and says nothing. The limit counts from the opening.
TEST(Video, ASilentStreamIsGivenUp) {
  const test::Listener listener;
  const std::string source = "rtsp://127.0.0.1:" + std::to_string(listener.port()) + "/x";
  const auto start = std::chrono::steady_clock::now();
  std::string why;
  try {
    const Video video(source, of_side(16));
  } catch (const Error& error) {
    why = error.what();
  }
  const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
  if (waited.count() < 1) GTEST_SKIP() << "OpenCV without FFmpeg: " << why;
  EXPECT_NE(why.find("nothing came from the stream for 10 seconds"), std::string::npos) << why;
  EXPECT_LT(waited.count(), 20);
}

TEST(Video, NamesAreToldApart) {
  for (const char* name : {"a.mp4", "b/c.AVI", "/dev/video0", "rtsp://host/stream"}) {
    EXPECT_TRUE(is_video(name)) << name;
  }
  for (const char* name : {"a.png", "folder", "mp4", "a.avi.jpg"}) EXPECT_FALSE(is_video(name));
}

}  // namespace
}  // namespace ens
