#include "nn/data/video.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <thread>

#include "base/error.h"
#include "nn/data/image.h"
#include "tests/nn/data/clips.h"
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

TEST(Video, NamesAreToldApart) {
  for (const char* name : {"a.mp4", "b/c.AVI", "/dev/video0", "rtsp://host/stream"}) {
    EXPECT_TRUE(is_video(name)) << name;
  }
  for (const char* name : {"a.png", "folder", "mp4", "a.avi.jpg"}) EXPECT_FALSE(is_video(name));
}

}  // namespace
}  // namespace ens
