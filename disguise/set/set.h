// SPDX-License-Identifier: Apache-2.0
// The disguised set: one HDF5 file with transformed images and their labels, all that a cloud gets
// to train on. Written and read in chunks, so that a set may be larger than memory.
//
// The file, which h5dump and h5py open as it is (all values little-endian):
//   user block  512 bytes, as in a Checkpoint (nn/io/checkpoint.h): the file's length and the
//   SHA-256 of all that follows /           attributes "kind" ("disguised-set"), "version" (1),
//   "method", "settings", "key_id", "set_id", "split", "marks"
//               (a line each), "shape" of one row, "classes", "mean" and "stddev" of the rows by
//               channel, and "scale" and "offset": a stored element e means e * scale + offset (1
//               and 0 except for `store: uint8`)
//   /x          [rows, shape...], chunks of 256 rows; float16, float32 or uint8
//   /x_sha256   [chunks, 32] uint8: of the chunk's rows as they are stored
//   /y          [rows] int32; or, where labels are mixed,
//   /y_soft     [rows, classes] float32: shares of the classes, which need not add up to 1
// No file names, no times, no class names. The rows are in an order that only the owner knows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

// What anybody who has the file knows.
struct DisguisedSetInfo {
  std::string method;         // a name of proto/disguises.inc
  std::string settings;       // the method's public settings: a DisguiseConfig as text
  Shape shape;                // of one row, usually [C, H', W']
  Dtype dtype = Dtype::kF16;  // of the stored elements: float16, float32 or uint8
  float scale = 1, offset = 0;
  int64_t rows = 0;          // n, at least 1
  int classes = 0;           // at least 2; labels are 0 .. classes - 1
  bool soft_labels = false;  // shares of the classes
  std::vector<float> mean,
      stddev;          // of the rows' elements, for each shape[0]; never infinite, stddev never 0
  std::string key_id;  // 16 hex digits that name the key and say nothing about it
  std::string set_id;  // 16 hex digits, others for every set
  std::string split;   // "train" or "test"
  std::vector<std::string> marks;  // why this set is no secret: "insecure_seeded_secrets"
};

inline constexpr int64_t kDisguisedChunkRows = 256;

// Writes a set row by row under a temporary name in the same folder; the file appears, whole, when
// finish() returns. One thread at a time.
class DisguisedSetWriter {
 public:
  // `info` but for mean and stddev, which the writer finds. Error if the file cannot be made; usage
  // Error if there is a file of this name already, or for facts that no set may have.
  DisguisedSetWriter(const std::filesystem::path& file, const DisguisedSetInfo& info);
  ~DisguisedSetWriter();  // without finish(): nothing is left behind
  DisguisedSetWriter(const DisguisedSetWriter&) = delete;
  DisguisedSetWriter& operator=(const DisguisedSetWriter&) = delete;

  // The next rows: float32 [count, shape...] on the CPU, and a label for each. What the dtype
  // cannot hold becomes the nearest value that it can. Error for elements that are not finite,
  // labels out of range, more rows than announced, and if the disk is full.
  void add(const Tensor& rows, std::span<const int32_t> labels);
  // The same with soft labels: float32 [count, classes], each from 0 to 1.
  void add(const Tensor& rows, const Tensor& shares);
  // Returns what the file says. Error if rows are missing, or if there is a file of this name by
  // now.
  DisguisedSetInfo finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads a set. Opening reads the file once from end to end: Error, before memory is taken, if it is
// missing, cut, damaged, of a newer version or no disguised set, if sizes, labels or facts are
// impossible, or if an element is not finite. Any number of threads.
class DisguisedSetReader {
 public:
  explicit DisguisedSetReader(const std::filesystem::path& file);
  ~DisguisedSetReader();
  DisguisedSetReader(DisguisedSetReader&&) noexcept;

  const DisguisedSetInfo& info() const;
  const std::string& file() const;  // for messages
  // float32 [count, shape...]. Whole chunks of kDisguisedChunkRows are read and their SHA-256
  // compared; the last one is kept, so that going through the rows in order reads each chunk once.
  Tensor rows(int64_t first, int64_t count) const;
  std::vector<int32_t> labels() const;  // of soft labels the class with the largest share
  Tensor soft_labels() const;           // float32 [rows, classes], or undefined

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
