// What OpenCV decodes. Its codecs pull in some 220 libraries (GDAL, FFmpeg, GStreamer), 50 MiB of
// memory and a tenth of a second, so they live in a shared library of their own, libens_codecs.so,
// which is loaded when the first video, camera or unusual picture is read. Internal to nn/data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nn/data/pixels.h"

namespace ens::data {

// How long a stream (rtsp://...) may be silent, when it is opened and between two frames.
inline constexpr int kStreamSilenceMs = 10000;

// An open video or camera. One thread at a time.
class Capture {
 public:
  virtual ~Capture() = default;
  virtual bool read(Pixels& frame) = 0;  // false: no more frames
  virtual double rate() const = 0;       // frames a second; 0: not known
  virtual int64_t frames() const = 0;    // as the file says; 0: not known
  virtual int64_t pixels() const = 0;    // of a frame, before one is read; 0: not known
};

// The library's functions throw std::exception, never ens::Error.
struct Codecs {
  // As it is stored: not turned, not composited. max_value: the sample that is white; 0: the
  // largest of its type. Width 0 if it is not a picture.
  Raster (*decode)(const uint8_t* bytes, size_t size, int max_value);
  // The bytes of a JPEG file; grey or RGB.
  std::vector<uint8_t> (*encode_jpeg)(const Raster& picture, int quality);
  // nullptr if it cannot be opened.
  std::unique_ptr<Capture> (*open)(const std::string& source, bool camera, int channels);
};

// Loads the library. Error if it is not there.
const Codecs& codecs();

}  // namespace ens::data
