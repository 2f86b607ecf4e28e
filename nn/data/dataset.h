// Labelled images in memory, and where they come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/core/rng.h"
#include "nn/data/image_fit.h"

namespace ens {

// Dense uint8 images of one size, NCHW, with one class label each. Immutable once loaded; safe to
// read from any thread.
struct Dataset {
  std::string name;  // "cifar10"
  int channels = 0, height = 0, width = 0;
  std::vector<uint8_t> pixels;  // count() * channels * height * width, 0..255
  std::vector<int32_t> labels;  // 0 .. class_names.size()-1
  std::vector<std::string> class_names;
  // Per-channel mean and standard deviation of the TRAINING split in [0, 1] (both splits carry the
  // same numbers, whatever the limit): the input normalisation of a model. Folders and shapes: of
  // at most 2,000 training images. stddev is never 0.
  std::vector<float> mean, stddev;
  // What is odd about the set's files, and was put up with: a line each, for the log.
  std::vector<std::string> warnings;

  int64_t count() const { return static_cast<int64_t>(labels.size()); }
  int64_t image_size() const { return int64_t{channels} * height * width; }
  // The first `n` images (all, if there are fewer), or those with the given indices.
  Dataset head(int64_t n) const;
  Dataset pick(const std::vector<int64_t>& indices) const;
  // So many (all, if there are fewer) at random and in random order: image folders may be sorted.
  Dataset draw(int64_t n, Rng& rng) const;
};

enum class DataSplit { kTrain, kTest };

struct DataOptions {
  // "cifar10", "cifar100", "mnist", "fashion_mnist", "shapes", or "folder:PATH" for an image folder
  // (a relative PATH is also looked for under root), laid out as docs/images.md says.
  std::string name = "cifar10";
  // Folder that holds <name>/...; empty: $ENS_DATA, then
  // ${XDG_CACHE_HOME:-~/.cache}/ensembler-data.
  std::filesystem::path root;
  int image_size = 0;  // resize to this square (folders, or any set); 0: the set's own size
                       // (folders: 64)
  int64_t limit = 0;   // use the first n images of the split; 0: all
  // folders: name of the labels.csv column to learn; empty: "label", "identity" or the second
  // column
  std::string label_column;
  uint64_t seed = 1;               // shapes: which figures are drawn; folders: the train/test split
  ImageFit fit = ImageFit::kCrop;  // how images of another shape become squares
};

// Loads a split. Error names the missing or damaged file, what is wrong with it and the command
// that mends it (`ensembler data get NAME`). Grey sets have 1 channel.
Dataset load_dataset(const DataOptions& options, DataSplit split);

// Error naming `where` and both lists unless the set has the classes `names`, in this order: labels
// are indices, so a set with other classes would be compared with the wrong ones.
void check_classes(const Dataset& data, const std::vector<std::string>& names,
                   const std::string& where);

// Whether load_dataset would find its files (no contents are read). "shapes" always.
bool dataset_present(const DataOptions& options);

// The folder that --data / ENS_DATA / the cache directory resolve to, in that order.
std::filesystem::path data_root(const std::filesystem::path& given);

}  // namespace ens
