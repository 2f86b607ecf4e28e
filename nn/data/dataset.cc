#include "nn/data/dataset.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/strings.h"
#include "nn/data/pixels.h"
#include "nn/data/sources.h"

namespace ens {

namespace fs = std::filesystem;

namespace data {

void ChannelStats::add(const uint8_t* image, int channels, int64_t plane) {
  channels_.resize(static_cast<size_t>(channels));
  for (Sums& sums : channels_) {
    // 32-bit partial sums (safe up to 65,536 pixels) let the compiler vectorise.
    for (int64_t start = 0; start < plane; start += 65536) {
      const int64_t count = std::min<int64_t>(plane - start, 65536);
      uint32_t sum = 0, squares = 0;
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t value = image[start + i];
        sum += value;
        squares += value * value;
      }
      sums.sum += sum;
      sums.squares += squares;
    }
    sums.count += static_cast<uint64_t>(plane);
    image += plane;
  }
}

void ChannelStats::store(Dataset& out) const {
  out.mean.clear();
  out.stddev.clear();
  for (const Sums& sums : channels_) {
    const double count = static_cast<double>(std::max<uint64_t>(sums.count, 1)) * 255.0;
    const double mean = static_cast<double>(sums.sum) / count;
    const double variance = static_cast<double>(sums.squares) / (count * 255.0) - mean * mean;
    const double stddev = std::sqrt(std::max(variance, 0.0));
    out.mean.push_back(static_cast<float>(mean));
    out.stddev.push_back(static_cast<float>(stddev > 1e-4 ? stddev : 1.0 / 255.0));
  }
}

std::string mend_hint(const DataOptions& options) {
  std::string hint = "run `ensembler data get " + options.name;
  if (!options.root.empty()) hint += " --data " + options.root.string();
  return hint + "`";
}

std::vector<uint8_t> read_file(const fs::path& file, const std::string& hint) {
  // gzread passes files through that are not gzip.
  const gzFile opened = gzopen(file.c_str(), "rb");
  if (!opened) {
    const std::string why = errno == ENOENT ? "file is missing" : std::strerror(errno);
    fail(why, file.string(), hint);
  }
  gzbuffer(opened, 1 << 17);
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> guard(opened, gzclose_r);
  std::vector<uint8_t> bytes;
  std::error_code ignored;
  const auto size = fs::file_size(file, ignored);
  bytes.resize((ignored ? 0 : size) + (1 << 16));
  size_t used = 0;
  while (true) {
    const auto room = static_cast<unsigned>(std::min<size_t>(bytes.size() - used, 1 << 30));
    const int got = gzread(opened, bytes.data() + used, room);
    int code = Z_OK;
    const std::string detail = gzerror(opened, &code);
    if (code == Z_ERRNO) fail("cannot read file: " + detail, file.string(), hint);
    if (code == Z_BUF_ERROR) fail("gzip file is cut off", file.string(), hint);
    if (got < 0 || code < 0) fail("gzip file is damaged: " + detail, file.string(), hint);
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used == bytes.size()) bytes.resize(bytes.size() * 2);
  }
  bytes.resize(used);
  return bytes;
}

std::vector<std::string> read_lines(const fs::path& file, const std::string& hint) {
  const std::vector<uint8_t> bytes = read_file(file, hint);
  std::vector<std::string> lines;
  for (auto it = bytes.begin(); it != bytes.end();) {
    const auto end =
        std::find_if(it, bytes.end(), [](uint8_t c) { return c == '\n' || c == '\r'; });
    lines.emplace_back(it, end);
    if (lines.back().find('\0') != std::string::npos) {
      fail("line has a NUL character: damaged, or no UTF-8 text",
           file.string() + ":" + std::to_string(lines.size()), hint);
    }
    it = end;
    if (it != bytes.end() && *it == '\r') ++it;  // also alone, as in files of old Macintoshes
    if (it != bytes.end() && *it == '\n') ++it;
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

}  // namespace data

namespace {

struct Source {
  Dataset (*read)(const DataOptions&, DataSplit);
  bool (*present)(const DataOptions&);
  bool sized;  // read() obeys image_size
};

Source source_of(const std::string& name) {
  if (name == "cifar10" || name == "cifar100") {
    return {data::read_cifar, data::cifar_present, false};
  }
  if (name == "mnist" || name == "fashion_mnist") {
    return {data::read_idx, data::idx_present, false};
  }
  if (name == "shapes") {
    return {data::make_shapes, [](const DataOptions&) { return true; }, true};
  }
  if (name.starts_with("folder:") && name.size() > 7) {
    return {data::read_folder, data::folder_present, true};
  }
  usage_fail("unknown data set \"" + name + "\"", "data set name",
             "choose cifar10, cifar100, mnist, fashion_mnist, shapes or folder:PATH");
}

void resize_all(Dataset& data, int size, ImageFit fit) {
  if (data.height == size && data.width == size) return;
  const int64_t to_size = int64_t{data.channels} * size * size;
  std::vector<uint8_t> pixels(static_cast<size_t>(data.count() * to_size));
  for (int64_t i = 0; i < data.count(); ++i) {
    data::resize(data.pixels.data() + i * data.image_size(), data.channels, data.height, data.width,
                 pixels.data() + i * to_size, size, size, fit);
  }
  data.pixels = std::move(pixels);
  data.height = data.width = size;
}

}  // namespace

Dataset Dataset::head(int64_t n) const {
  n = std::clamp<int64_t>(n, 0, count());
  Dataset out{name,        channels, height, width,   {}, {labels.begin(), labels.begin() + n},
              class_names, mean,     stddev, warnings};
  out.pixels.assign(pixels.begin(), pixels.begin() + n * image_size());
  return out;
}

Dataset Dataset::draw(int64_t n, Rng& rng) const {
  std::vector<int64_t> order = rng.permutation(count());
  order.resize(static_cast<size_t>(std::min(n, count())));
  return pick(order);
}

Dataset Dataset::pick(const std::vector<int64_t>& indices) const {
  Dataset out{name, channels, height, width, {}, {}, class_names, mean, stddev, warnings};
  out.labels.reserve(indices.size());
  out.pixels.reserve(indices.size() * static_cast<size_t>(image_size()));
  for (const int64_t i : indices) {
    if (i < 0 || i >= count()) {
      fail("image " + std::to_string(i) + " is not one of the " + std::to_string(count()), name);
    }
    out.labels.push_back(labels[i]);
    const auto from = pixels.begin() + i * image_size();
    out.pixels.insert(out.pixels.end(), from, from + image_size());
  }
  return out;
}

Dataset load_dataset(const DataOptions& options, DataSplit split) {
  constexpr int kLargest = 4096;
  if (options.image_size < 0 || options.image_size > kLargest) {
    usage_fail("image size must be 0 to " + std::to_string(kLargest) + ", not " +
                   std::to_string(options.image_size),
               options.name);
  }
  if (options.limit < 0) {
    usage_fail("limit must not be negative, it is " + std::to_string(options.limit), options.name);
  }
  const Source source = source_of(options.name);
  Dataset out = source.read(options, split);
  if (options.image_size && !source.sized) resize_all(out, options.image_size, options.fit);
  return out;
}

void check_classes(const Dataset& data, const std::vector<std::string>& names,
                   const std::string& where) {
  // Versions before kept the spaces around a label.
  if (std::ranges::equal(data.class_names, names, {}, trimmed, trimmed)) return;
  const auto listed = [](std::vector<std::string> all) {
    constexpr size_t kMost = 20;
    const std::string count = std::to_string(all.size());
    if (all.size() > kMost) {
      all.resize(kMost);
      all.emplace_back("...");
    }
    return count + " (" + join(all) + ")";
  };
  fail(data.name + " has other classes than the network: " + listed(data.class_names) +
           "; the network knows " + listed(names),
       where, "name the folders or labels as in the training, or train on this data set");
}

bool dataset_present(const DataOptions& options) {
  return source_of(options.name).present(options);
}

fs::path data_root(const fs::path& given) {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value ? value : "");
  };
  if (!given.empty()) return given;
  if (const fs::path root = variable("ENS_DATA"); !root.empty()) return root;
  if (const fs::path cache = variable("XDG_CACHE_HOME"); cache.is_absolute()) {
    return cache / "ensembler-data";
  }
  const fs::path home = variable("HOME");
  if (home.empty()) {
    usage_fail("no folder for data sets: ENS_DATA, XDG_CACHE_HOME and HOME are all unset", "",
               "give --data or set ENS_DATA");
  }
  return home / ".cache" / "ensembler-data";
}

}  // namespace ens
