// Batches of augmented images, prepared ahead by background threads.
#pragma once

#include <cstdint>
#include <memory>

#include "nn/core/tensor.h"
#include "nn/data/dataset.h"

namespace ens {

struct Batch {
  Tensor images;      // [B, C, H, W] float32 in [0, 1], plain
  Tensor labels;      // [B] int32
  int64_t first = 0;  // position of the batch's first image in this epoch's order
};

struct LoaderOptions {
  int64_t batch = 128;
  bool shuffle = true;
  bool drop_last = true;  // leave out a smaller last batch
  int crop_padding = 0;   // pad with zeros by this much and crop back at random; 0: off
  bool flip = false;      // mirror left-right with probability 1/2
  uint64_t seed = 1;
  int prefetch = 4;  // batches prepared ahead; 0: prepared on the caller's thread
  // Where batches are wanted. On a GPU the data set stays in its memory and is augmented there, in
  // the caller's order of work; the numbers are the same.
  Device device;
};

// One pass over the data per start(). The images, order and augmentation of (seed, epoch, position)
// never depend on threads or on what was read before, so training resumes exactly at any epoch.
// Used from one thread at a time; the data set must outlive the loader. An error of the background
// thread is thrown by next(). One thread prepares (a few microseconds an image), on any CPU.
class Loader {
 public:
  Loader(const Dataset& data, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  void start(int64_t epoch);
  bool next(Batch& batch);        // false at the end of the epoch
  int64_t batches() const;        // per epoch
  double seconds_waited() const;  // total time next() had to wait for data

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Images [first, first+count) without augmentation: float32 [count, C, H, W] in [0, 1].
Tensor images_of(const Dataset& data, int64_t first, int64_t count);
Tensor labels_of(const Dataset& data, int64_t first, int64_t count);

}  // namespace ens
