// MNIST and Fashion-MNIST in the idx format (described at http://yann.lecun.com/exdb/mnist/),
// plain or gzip.
#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "nn/data/sources.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

// root/<name>, or where torchvision puts the same files if only that is there.
fs::path folder_of(const DataOptions& options) {
  const fs::path root = data_root(options.root);
  const fs::path other = root / (options.name == "mnist" ? "MNIST" : "FashionMNIST") / "raw";
  std::error_code ignored;
  const bool use_other = !fs::exists(root / options.name, ignored) && fs::exists(other, ignored);
  return use_other ? other : root / options.name;
}

// FILE, or FILE.gz if only that is there.
fs::path plain_or_gz(const fs::path& file) {
  fs::path packed = file;
  packed += ".gz";
  std::error_code ignored;
  return !fs::exists(file, ignored) && fs::exists(packed, ignored) ? packed : file;
}

std::pair<fs::path, fs::path> files_of(const fs::path& folder, DataSplit split) {
  const std::string prefix = split == DataSplit::kTrain ? "train" : "t10k";
  return {plain_or_gz(folder / (prefix + "-images-idx3-ubyte")),
          plain_or_gz(folder / (prefix + "-labels-idx1-ubyte"))};
}

struct Idx {
  std::vector<uint8_t> bytes;
  std::vector<int64_t> dims;
  const uint8_t* values = nullptr;
};

Idx read_idx_file(const fs::path& file, int rank, const std::string& hint) {
  Idx idx{read_file(file, hint), {}, nullptr};
  const size_t header = 4 + 4 * static_cast<size_t>(rank);
  // Magic number: two zeros, the element type (8: unsigned byte), the number of dimensions.
  const std::array<uint8_t, 4> magic{0, 0, 8, static_cast<uint8_t>(rank)};
  if (idx.bytes.size() < header || !std::equal(magic.begin(), magic.end(), idx.bytes.begin())) {
    fail("file does not start like an idx file of " + std::to_string(rank) +
             "-dimensional unsigned bytes",
         file.string(), hint);
  }
  uint64_t values = 1;
  std::string shape;
  for (size_t at = 4; at < header; at += 4) {
    const uint8_t* b = idx.bytes.data() + at;
    const uint64_t dim = uint64_t{b[0]} << 24 | uint64_t{b[1]} << 16 | uint64_t{b[2]} << 8 | b[3];
    if (!shape.empty()) shape += 'x';
    shape += std::to_string(dim);
    idx.dims.push_back(static_cast<int64_t>(dim));
    // No file of ours is larger than 2^31 values; the bound keeps the product from wrapping.
    values = dim == 0 || values > (uint64_t{1} << 31) / dim ? 0 : values * dim;
  }
  if (values == 0 || idx.bytes.size() - header != values) {
    fail("header announces " + shape + " values, the file holds " +
             std::to_string(idx.bytes.size() - header),
         file.string(), hint);
  }
  idx.values = idx.bytes.data() + header;
  return idx;
}

}  // namespace

Dataset read_idx(const DataOptions& options, DataSplit split) {
  const fs::path folder = folder_of(options);
  const std::string hint = mend_hint(options);
  const auto [image_file, label_file] = files_of(folder, split);
  const Idx images = read_idx_file(image_file, 3, hint);
  const Idx labels = read_idx_file(label_file, 1, hint);
  if (labels.dims[0] != images.dims[0]) {
    fail("file has " + std::to_string(labels.dims[0]) + " labels for the " +
             std::to_string(images.dims[0]) + " images of " + image_file.filename().string(),
         label_file.string(), hint);
  }

  Dataset out;
  out.name = options.name;
  out.channels = 1;
  out.height = static_cast<int>(images.dims[1]);
  out.width = static_cast<int>(images.dims[2]);
  if (options.name == "mnist") {
    out.class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  } else {
    out.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                       "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  }
  for (int64_t i = 0; i < labels.dims[0]; ++i) {
    if (labels.values[i] >= out.class_names.size()) {
      fail("label " + std::to_string(labels.values[i]) + " of record " + std::to_string(i) +
               " is out of range (0 to 9)",
           label_file.string(), hint);
    }
  }
  const int64_t count = options.limit ? std::min(options.limit, images.dims[0]) : images.dims[0];
  out.labels.assign(labels.values, labels.values + count);
  out.pixels.assign(images.values, images.values + count * out.image_size());

  ChannelStats stats;
  const auto add_all = [&](const Idx& idx) {
    stats.add(idx.values, 1, idx.bytes.data() + idx.bytes.size() - idx.values);
  };
  if (split == DataSplit::kTrain) {
    add_all(images);
  } else {
    add_all(read_idx_file(files_of(folder, DataSplit::kTrain).first, 3, hint));
  }
  stats.store(out);
  return out;
}

bool idx_present(const DataOptions& options) {
  const fs::path folder = folder_of(options);
  for (const DataSplit split : {DataSplit::kTrain, DataSplit::kTest}) {
    const auto [images, labels] = files_of(folder, split);
    std::error_code ignored;
    if (!fs::is_regular_file(images, ignored) || !fs::is_regular_file(labels, ignored)) {
      return false;
    }
  }
  return true;
}

}  // namespace ens::data
