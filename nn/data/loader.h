// Batches of labelled rows, prepared ahead by background threads: augmented images of a data set in
// memory, or the rows of any RowSource.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "nn/core/tensor.h"
#include "nn/data/dataset.h"

namespace ens {

struct Batch {
  Tensor images;      // [B, C, H, W] float32, plain; a data set's in [0, 1]
  Tensor labels;      // [B] int32, or of a source with soft labels [B, K] float32
  int64_t first = 0;  // position of the batch's first image in this epoch's order
};

// What stands at a position of an epoch: a row and, of images, how it is augmented.
struct LoadedRow {
  int64_t row;
  int dy = 0, dx = 0;
  bool flip = false;
};

// Labelled rows of one shape, for a Loader.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual std::string name() const = 0;  // for messages
  virtual int64_t count() const = 0;
  // Rows that lie in a file are read in chunks of so many. A shuffled epoch takes the chunks in
  // random order and mixes the rows of `open_chunks` of them at a time, so that no more have to be
  // in memory. 0: all rows are at hand, and any order is as good.
  virtual int64_t chunk() const { return 0; }
  virtual int64_t open_chunks() const { return 1; }
  // Used from one thread at a time, which need not be the same. batch.first is the caller's.
  virtual Batch read(std::span<const LoadedRow> rows) = 0;
};

struct LoaderOptions {
  int64_t batch = 128;
  bool shuffle = true;
  bool drop_last = true;  // leave out a smaller last batch
  int crop_padding = 0;   // pad with zeros by this much and crop back at random; 0: off
  bool flip = false;      // mirror left-right with probability 1/2
  uint64_t seed = 1;
  int prefetch = 4;  // batches prepared ahead; 0: prepared on the caller's thread
  // Where batches are wanted. On a GPU a data set stays in its memory and is augmented there, in
  // the caller's order of work; the numbers are the same. Rows of a source are copied there.
  Device device;
};

// What a training reads its batches from. Used from one thread at a time.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual void start(int64_t epoch) = 0;
  virtual bool next(Batch& batch) = 0;     // false at the end of the epoch
  virtual int64_t batches() const = 0;     // per epoch
  virtual double seconds_waited() const {  // total time next() had to wait for data
    return 0;
  }
};

// One pass over the data per start(). The images, order and augmentation of (seed, epoch, position)
// never depend on threads or on what was read before, so training resumes exactly at any epoch.
// Used from one thread at a time; the data set or source must outlive the loader. An error of the
// background thread is thrown by next(). One thread prepares (a few microseconds an image), on any
// CPU.
class Loader : public BatchSource {
 public:
  Loader(const Dataset& data, const LoaderOptions& options);
  // Rows of a source are not augmented: usage Error if the options ask for it.
  Loader(RowSource& source, const LoaderOptions& options);
  ~Loader() override;
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  void start(int64_t epoch) override;
  bool next(Batch& batch) override;
  int64_t batches() const override;
  double seconds_waited() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Images [first, first+count) without augmentation: float32 [count, C, H, W] in [0, 1].
Tensor images_of(const Dataset& data, int64_t first, int64_t count);
Tensor labels_of(const Dataset& data, int64_t first, int64_t count);

}  // namespace ens
