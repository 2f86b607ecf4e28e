#include "tests/nn/data/clips.h"

#include <algorithm>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <stdexcept>

namespace ens::test {

std::vector<Tensor> write_clip(const std::filesystem::path& file, int frames, int width,
                               int height) {
  // OpenCV's own writer: needs no FFmpeg.
  cv::VideoWriter writer(file.string(), cv::CAP_OPENCV_MJPEG,
                         cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), 10, {width, height});
  if (!writer.isOpened()) throw std::runtime_error("no video can be written");
  writer.set(cv::VIDEOWRITER_PROP_QUALITY, 100);
  std::vector<Tensor> squares;
  const int side = std::min(width, height);
  for (int i = 0; i < frames; ++i) {
    // Smooth, so that JPEG keeps it: three colours that move.
    cv::Mat frame(height, width, CV_8UC3);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        frame.at<cv::Vec3b>(y, x) = {static_cast<uint8_t>((x * 5 + i * 20) % 256 / 2 + 60),
                                     static_cast<uint8_t>(y * 6 + 40),
                                     static_cast<uint8_t>(200 - (i * 15) % 150)};
      }
    }
    writer.write(frame);
    const cv::Mat middle = frame(cv::Rect((width - side) / 2, (height - side) / 2, side, side));
    Tensor square = Tensor::empty({3, side, side});
    for (int64_t k = 0; k < square.numel(); ++k) {
      const auto plane = static_cast<int>(k / side / side);
      const int y = static_cast<int>(k / side) % side, x = static_cast<int>(k) % side;
      square.data<float>()[k] = static_cast<float>(middle.at<cv::Vec3b>(y, x)[2 - plane]) / 255.0f;
    }
    squares.push_back(square);
  }
  return squares;
}

}  // namespace ens::test
