// CIFAR-10 and CIFAR-100, binary version: https://www.cs.toronto.edu/~kriz/cifar.html
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "nn/data/sources.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

constexpr int kSide = 32;
constexpr int64_t kPlane = int64_t{kSide} * kSide;
constexpr int64_t kImage = 3 * kPlane;

struct Format {
  const char* official_folder;
  std::vector<std::string> train, test;
  const char* names_file;
  int classes;
  int label_bytes;  // the class is the last of them
};

Format format_of(const std::string& name) {
  if (name == "cifar10") {
    return {"cifar-10-batches-bin",
            {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
             "data_batch_5.bin"},
            {"test_batch.bin"},
            "batches.meta.txt",
            10,
            1};
  }
  return {"cifar-100-binary", {"train.bin"}, {"test.bin"}, "fine_label_names.txt", 100, 2};
}

// root/<name>, or the folder that the official archive unpacks to if only that is there.
fs::path folder_of(const DataOptions& options, const Format& format) {
  const fs::path root = data_root(options.root);
  std::error_code ignored;
  if (!fs::exists(root / options.name, ignored) &&
      fs::exists(root / format.official_folder, ignored)) {
    return root / format.official_folder;
  }
  return root / options.name;
}

// Checks every record, appends images to `out` until it holds `want`, adds all to `stats` if given.
void read_batch(const fs::path& file, const Format& format, const std::string& hint, int64_t want,
                Dataset& out, ChannelStats* stats) {
  const std::vector<uint8_t> bytes = read_file(file, hint);
  const int64_t record = format.label_bytes + kImage;
  const auto size = static_cast<int64_t>(bytes.size());
  if (size == 0 || size % record != 0) {
    fail("file has " + std::to_string(size) + " bytes, not a whole number of " +
             std::to_string(record) + "-byte records",
         file.string(), hint);
  }
  for (int64_t i = 0; i < size / record; ++i) {
    const uint8_t* label = bytes.data() + i * record + format.label_bytes - 1;
    if (*label >= format.classes) {
      fail("label " + std::to_string(*label) + " of record " + std::to_string(i) +
               " is out of range (0 to " + std::to_string(format.classes - 1) + ")",
           file.string(), hint);
    }
    if (stats) stats->add(label + 1, 3, kPlane);
    if (want == 0 || out.count() < want) {
      out.labels.push_back(*label);
      out.pixels.insert(out.pixels.end(), label + 1, label + 1 + kImage);
    }
  }
}

}  // namespace

Dataset read_cifar(const DataOptions& options, DataSplit split) {
  const Format format = format_of(options.name);
  const fs::path folder = folder_of(options, format);
  const std::string hint = mend_hint(options);
  Dataset out;
  out.name = options.name;
  out.channels = 3;
  out.height = out.width = kSide;
  out.class_names = read_lines(folder / format.names_file, hint);
  if (static_cast<int>(out.class_names.size()) != format.classes) {
    fail("file names " + std::to_string(out.class_names.size()) + " classes, not " +
             std::to_string(format.classes),
         (folder / format.names_file).string(), hint);
  }

  const bool train = split == DataSplit::kTrain;
  const auto& files = train ? format.train : format.test;
  int64_t capacity = 0;
  for (const std::string& file : files) {
    std::error_code ignored;
    const auto size = fs::file_size(folder / file, ignored);
    if (!ignored) capacity += static_cast<int64_t>(size) / (format.label_bytes + kImage);
  }
  if (options.limit) capacity = std::min(capacity, options.limit);
  out.pixels.reserve(static_cast<size_t>(capacity * kImage));

  ChannelStats stats;
  for (const std::string& file : format.train) {
    Dataset passed_over;
    read_batch(folder / file, format, hint, train ? options.limit : 1, train ? out : passed_over,
               &stats);
  }
  if (!train) {
    for (const std::string& file : format.test) {
      read_batch(folder / file, format, hint, options.limit, out, nullptr);
    }
  }
  stats.store(out);
  return out;
}

bool cifar_present(const DataOptions& options) {
  const Format format = format_of(options.name);
  const fs::path folder = folder_of(options, format);
  std::vector<std::string> files = format.train;
  files.insert(files.end(), format.test.begin(), format.test.end());
  files.emplace_back(format.names_file);
  for (const std::string& file : files) {
    std::error_code ignored;
    if (!fs::is_regular_file(folder / file, ignored)) return false;
  }
  return true;
}

}  // namespace ens::data
