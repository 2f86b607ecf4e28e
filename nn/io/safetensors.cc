// SPDX-License-Identifier: Apache-2.0
#include "nn/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/files.h"

namespace ens {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are stored little-endian");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMostHeader = 100'000'000;  // as in the reference implementation

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape, offsets;
};

// Names come from the file: cut, and without what would break a line.
std::string printable(std::string text) {
  constexpr size_t kMost = 120;
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

// Takes the header apart while it is read: {"NAME": {"dtype": "F32", "shape": [2, 3],
// "data_offsets": [0, 24]}, ..., "__metadata__": {"KEY": "VALUE"}}, and nothing else.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::string error;

  bool start_object(size_t) override {
    if (depth_ == 0 || (depth_ == 1 && !in_list_)) return ++depth_, true;
    return refuse("an object where none belongs");
  }
  bool end_object() override {
    if (depth_-- == 2 && !metadata_) {
      const Entry& e = entries.back();
      if (e.dtype.empty() || !has_shape_ || e.offsets.size() != 2) {
        return refuse("dtype, shape or data_offsets are missing");
      }
    }
    return true;
  }
  bool key(std::string& name) override {
    if (depth_ == 1) {
      metadata_ = name == "__metadata__";
      if (!metadata_) entries.push_back({name, {}, {}, {}});
      has_shape_ = false;
    } else {
      key_ = name;
    }
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == 2 && metadata_) return true;
    if (depth_ != 2 || key_ != "dtype" || in_list_) return refuse("a text where none belongs");
    entries.back().dtype = value;
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ != 2 || metadata_ || in_list_) return refuse("a list where none belongs");
    Entry& e = entries.back();
    if (key_ == "shape" && !has_shape_) {
      has_shape_ = true;
    } else if (key_ != "data_offsets" || !e.offsets.empty()) {
      return refuse("a list where none belongs");
    }
    return in_list_ = true;
  }
  bool end_array() override {
    in_list_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) return refuse("a number where none belongs");
    std::vector<uint64_t>& list = key_ == "shape" ? entries.back().shape : entries.back().offsets;
    if (list.size() >= static_cast<size_t>(Shape::kMaxRank)) return refuse("too many dimensions");
    list.push_back(value);
    return true;
  }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return refuse("a number that is not whole");
  }
  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("true or false"); }
  bool binary(binary_t&) override { return refuse("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    error = "the header is not JSON from its byte " + std::to_string(position) + " on";
    return false;
  }

 private:
  bool refuse(const std::string& what) {
    error = "the header has " + what;
    if (depth_ > 1 && !metadata_) error += ", at '" + printable(entries.back().name) + "'";
    return false;
  }

  int depth_ = 0;
  bool metadata_ = false, in_list_ = false, has_shape_ = false;
  std::string key_;
};

struct Stored {
  const char* name;
  size_t size;  // bytes of an element
  Dtype dtype;  // that it becomes
};
constexpr Stored kStored[] = {{"F32", 4, Dtype::kF32},   {"F16", 2, Dtype::kF16},
                              {"BF16", 2, Dtype::kBF16}, {"F64", 8, Dtype::kF32},
                              {"I64", 8, Dtype::kI32},   {"I32", 4, Dtype::kI32},
                              {"I8", 1, Dtype::kI8},     {"U8", 1, Dtype::kU8}};

// Elements of 8 bytes in ours of 4; false if one does not fit.
template <typename From, typename To>
bool narrow(const char* bytes, Tensor& to) {
  for (To& value : to.span<To>()) {
    From wide;
    std::memcpy(&wide, bytes, sizeof wide);
    bytes += sizeof wide;
    if constexpr (std::is_integral_v<From>) {
      if (wide < std::numeric_limits<To>::min() || wide > std::numeric_limits<To>::max()) {
        return false;
      }
    }
    value = static_cast<To>(wide);
  }
  return true;
}

}  // namespace

std::map<std::string, Tensor> parse_safetensors(std::string_view bytes, const std::string& source) {
  const std::string damaged =
      "the file is damaged, cut or of another format; .pt and .pth are pickles, which are never "
      "opened (docs/import.md)";
  uint64_t length = 0;
  if (bytes.size() >= kLengthBytes) std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length < 2 || length > kMostHeader || length > bytes.size() - kLengthBytes) {
    fail("no safetensors header at its start", source, damaged);
  }
  HeaderReader header;
  const std::string_view json = bytes.substr(kLengthBytes, length);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &header)) {
    fail(header.error, source, damaged);
  }
  const std::string_view data = bytes.substr(kLengthBytes + length);
  std::ranges::sort(header.entries, {}, &Entry::offsets);
  std::map<std::string, Tensor> tensors;
  uint64_t end = 0;
  for (const Entry& e : header.entries) {
    const std::string name = "'" + printable(e.name) + "'";
    const auto* stored = std::ranges::find(kStored, e.dtype, &Stored::name);
    if (stored == std::end(kStored)) {
      fail(name + " has dtype " + printable(e.dtype), source,
           "store it as F32, F16, BF16, F64, I64, I32, I8 or U8");
    }
    uint64_t size = stored->size;
    std::vector<int64_t> dims;
    for (const uint64_t dim : e.shape) {
      if (dim > bytes.size() || (dim > 0 && size > bytes.size() / dim)) {
        fail(name + " is larger than the file", source, damaged);
      }
      size *= dim;
      dims.push_back(static_cast<int64_t>(dim));
    }
    if (e.offsets[0] != end || e.offsets[1] < end || e.offsets[1] - end != size ||
        e.offsets[1] > data.size()) {
      fail("the elements of " + name + " do not lie where its shape, and the tensor before it, say",
           source, damaged);
    }
    Tensor tensor = Tensor::empty(Shape(dims), stored->dtype);
    const char* from = data.data() + end;
    bool fits = true;
    if (e.dtype == "F64") {
      fits = narrow<double, float>(from, tensor);
    } else if (e.dtype == "I64") {
      fits = narrow<int64_t, int32_t>(from, tensor);
    } else if (size > 0) {
      std::memcpy(tensor.raw(), from, size);
    }
    if (!fits) fail(name + " has integers beyond 32 bits", source, "store it as F32");
    if (!tensors.emplace(e.name, tensor).second) fail(name + " is there twice", source, damaged);
    end = e.offsets[1];
  }
  if (end != data.size()) fail("bytes behind the last tensor", source, damaged);
  return tensors;
}

std::map<std::string, Tensor> read_safetensors(const std::filesystem::path& file) {
  return parse_safetensors(read_file(file), file.string());
}

std::string safetensors_bytes(const std::map<std::string, Tensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  size_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto dims = tensor.shape().dims();
    const size_t begin = end;
    end += static_cast<size_t>(tensor.numel()) * sizeof(float);
    header[name] = {{"dtype", "F32"},
                    {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                    {"data_offsets", std::array{begin, end}}};
  }
  std::string json = header.dump();
  json.append((kLengthBytes - json.size() % kLengthBytes) % kLengthBytes, ' ');
  const uint64_t length = json.size();
  std::string bytes(reinterpret_cast<const char*>(&length), kLengthBytes);
  bytes.reserve(kLengthBytes + json.size() + end);
  bytes += json;
  for (const auto& [name, tensor] : tensors) {
    const Tensor values = tensor.to(Device{}).to(Dtype::kF32).plain();
    bytes.append(static_cast<const char*>(values.raw()), values.bytes());
  }
  return bytes;
}

void write_safetensors(const std::filesystem::path& file,
                       const std::map<std::string, Tensor>& tensors, bool secret) {
  write_file_atomically(file, safetensors_bytes(tensors), secret);
}

}  // namespace ens
