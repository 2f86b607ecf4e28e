// libens_codecs.so: see codecs.h.
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "nn/data/codecs.h"

namespace ens::data {
namespace {

// OpenCV's BGR, or grey -> planes.
Pixels planes_of(const cv::Mat& mat, int channels) {
  Pixels out{channels, mat.rows, mat.cols, {}};
  const size_t plane = mat.total();
  out.values.resize(plane * static_cast<size_t>(channels));
  std::vector<cv::Mat> planes;
  for (int c = 0; c < channels; ++c) {
    planes.emplace_back(mat.rows, mat.cols, CV_8UC1, out.values.data() + plane * c);
  }
  if (channels == 3) std::swap(planes[0], planes[2]);
  cv::split(mat, planes);
  return out;
}

// OpenCV prints to std::cerr why it cannot decode a picture, whatever its log level is.
class QuietCerr {
 public:
  QuietCerr() : lock_(mutex()), before_(std::cerr.rdbuf(nullptr)) {}
  ~QuietCerr() {
    std::cerr.rdbuf(before_);
    std::cerr.clear();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  const std::lock_guard<std::mutex> lock_;
  std::streambuf* const before_;
};

Raster decode(const uint8_t* bytes, size_t size, int max_value) {
  const cv::Mat raw(1, static_cast<int>(size), CV_8UC1, const_cast<uint8_t*>(bytes));
  cv::Mat mat;
  {
    const QuietCerr quiet;
    mat = cv::imdecode(raw, cv::IMREAD_UNCHANGED);
  }
  if (mat.empty()) return {};
  if (mat.depth() != CV_8U && mat.depth() != CV_16U) {
    throw std::runtime_error("its samples are neither of 8 nor of 16 bits");
  }
  const int most = max_value > 0 ? max_value : mat.depth() == CV_8U ? 255 : 65535;
  if (mat.depth() != CV_8U || most != 255) mat.convertTo(mat, CV_8U, 255.0 / most);
  if (mat.channels() == 3) cv::cvtColor(mat, mat, cv::COLOR_BGR2RGB);
  if (mat.channels() == 4) cv::cvtColor(mat, mat, cv::COLOR_BGRA2RGBA);
  Raster out{mat.channels(), mat.rows, mat.cols, {}};
  out.values.assign(mat.datastart, mat.dataend);
  return out;
}

std::vector<uint8_t> encode_jpeg(const Raster& picture, int quality) {
  const cv::Mat given(picture.height, picture.width, CV_8UC(picture.channels),
                      const_cast<uint8_t*>(picture.values.data()));
  cv::Mat mat = given;
  if (picture.channels == 3) cv::cvtColor(given, mat, cv::COLOR_RGB2BGR);
  std::vector<uint8_t> bytes;
  if (!cv::imencode(".jpg", mat, bytes, {cv::IMWRITE_JPEG_QUALITY, quality})) {
    throw std::runtime_error("cannot encode a JPEG");
  }
  return bytes;
}

class OpencvCapture : public Capture {
 public:
  OpencvCapture(cv::VideoCapture capture, int channels)
      : capture_(std::move(capture)), channels_(channels) {}

  bool read(Pixels& frame) override {
    cv::Mat mat;
    if (!capture_.read(mat) || mat.empty()) return false;
    if (mat.depth() != CV_8U) return false;
    if (mat.channels() == 4) cv::cvtColor(mat, mat, cv::COLOR_BGRA2BGR);
    if (mat.channels() != channels_) {
      cv::cvtColor(mat, mat, channels_ == 1 ? cv::COLOR_BGR2GRAY : cv::COLOR_GRAY2BGR);
    }
    frame = planes_of(mat, channels_);
    return true;
  }
  double rate() const override { return property(cv::CAP_PROP_FPS); }
  int64_t frames() const override {
    return static_cast<int64_t>(property(cv::CAP_PROP_FRAME_COUNT));
  }
  int64_t pixels() const override {
    return static_cast<int64_t>(property(cv::CAP_PROP_FRAME_WIDTH) *
                                property(cv::CAP_PROP_FRAME_HEIGHT));
  }

 private:
  double property(int which) const {  // "not known" has several forms
    const double value = capture_.get(which);
    return value > 0 && value < 1e9 ? value : 0;
  }

  cv::VideoCapture capture_;
  const int channels_;
};

std::unique_ptr<Capture> open(const std::string& source, bool camera, int channels) {
  cv::VideoCapture capture;
  // The last one plays motion JPEG in AVI where OpenCV was built without FFmpeg.
  for (const int backend : camera ? std::vector<int>{cv::CAP_V4L2}
                                  : std::vector<int>{cv::CAP_FFMPEG, cv::CAP_OPENCV_MJPEG}) {
    const std::vector<int> limits =
        backend == cv::CAP_FFMPEG
            ? std::vector<int>{cv::CAP_PROP_OPEN_TIMEOUT_MSEC, kStreamSilenceMs,
                               cv::CAP_PROP_READ_TIMEOUT_MSEC, kStreamSilenceMs}
            : std::vector<int>{};
    if (capture.open(source, backend, limits)) {
      return std::make_unique<OpencvCapture>(std::move(capture), channels);
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace ens::data

extern "C" __attribute__((visibility("default"))) const ens::data::Codecs* ens_codecs() {
  static const ens::data::Codecs kCodecs = [] {
    // What is wrong is said by who asked.
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    cv::redirectError([](int, const char*, const char*, const char*, int, void*) { return 0; });
    setenv("OPENCV_FFMPEG_LOGLEVEL", "-8", 0);
    return ens::data::Codecs{ens::data::decode, ens::data::encode_jpeg, ens::data::open};
  }();
  return &kCodecs;
}
