// Videos and cameras, frame by frame.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "nn/core/tensor.h"
#include "nn/data/image_fit.h"

namespace ens {

struct VideoOptions {
  int channels = 3;  // 1 grey, 3 RGB
  int side = 32;     // the square that frames are made
  ImageFit fit = ImageFit::kCrop;
  double fps = 0;  // at most so many frames a second of the source; 0: all
  bool live =
      false;  // play a file at its own speed, as a camera would; cameras and streams are live
};

struct Frame {
  Tensor image;        // [channels, side, side] float32 in [0, 1]
  int64_t number = 0;  // in the source, from 0
  double seconds = 0;  // since its first frame
};

// Frames, resized as read_image does. A live source is read in a thread of its own and only its
// newest frame is kept: whoever is slower misses frames, and never sees old ones. One thread at a
// time, but for stop().
class Video {
 public:
  // source: a video file, a camera (/dev/video0) or a stream (rtsp://...). Error naming it if it
  // cannot be opened; a stream also if nothing comes from it for 10 seconds, when it is opened or
  // between two frames.
  Video(const std::string& source, const VideoOptions& options);
  // A reader that waits for a silent stream is left to itself: it ends with the stream's time
  // limit.
  ~Video();

  // The next frame; false at the end, and after stop(). Error if a file ends before its last frame,
  // or a live source breaks off.
  bool next(Frame& frame);
  void stop();  // from any thread, also from a signal handler
  bool live() const;
  int64_t dropped() const;  // frames of a live source that nobody took in time

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;  // also the reader's
};

// Whether a name is that of a video, a camera or a stream: by its ending, or its form.
bool is_video(const std::string& source);

}  // namespace ens
