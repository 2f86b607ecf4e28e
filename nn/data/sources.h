// The readers behind load_dataset, one file per format. Internal to nn/data and its tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/data/dataset.h"

namespace ens::data {

// Per-channel mean and standard deviation of 8-bit images, as fractions of 255.
class ChannelStats {
 public:
  void add(const uint8_t* image, int channels, int64_t plane);  // one CHW image
  // Fills mean and stddev. A constant channel gets 1/255, so that dividing by it is safe.
  void store(Dataset& out) const;

 private:
  struct Sums {
    uint64_t sum = 0, squares = 0, count = 0;
  };
  std::vector<Sums> channels_;
};

// "run `ensembler data get NAME`", with the --data that was given.
std::string mend_hint(const DataOptions& options);

// All bytes of a file, unpacked if it is gzip. Error (with `hint`) if missing, unreadable, cut off
// or damaged.
std::vector<uint8_t> read_file(const std::filesystem::path& file, const std::string& hint);
// The lines of a text file without line ends and trailing empty lines.
std::vector<std::string> read_lines(const std::filesystem::path& file, const std::string& hint);

// Each reads at most options.limit images of the split and the statistics of the whole training
// split. cifar and idx ignore image_size (load_dataset resizes).
Dataset read_cifar(const DataOptions& options, DataSplit split);   // cifar10, cifar100
Dataset read_idx(const DataOptions& options, DataSplit split);     // mnist, fashion_mnist
Dataset read_folder(const DataOptions& options, DataSplit split);  // folder:PATH
Dataset make_shapes(const DataOptions& options, DataSplit split);  // shapes

bool cifar_present(const DataOptions& options);
bool idx_present(const DataOptions& options);
bool folder_present(const DataOptions& options);

}  // namespace ens::data
