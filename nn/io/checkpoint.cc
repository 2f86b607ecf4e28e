// SPDX-License-Identifier: Apache-2.0
#include "nn/io/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/strings.h"
#include "nn/core/backend.h"
#include "nn/io/hdf5_file.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

constexpr size_t kMaxText = 16 << 20;
constexpr int kMaxDepth = 32;

// A dense row-major copy (or the tensor itself) that the CPU can read.
Tensor readable(const Tensor& tensor) {
  Tensor plain = tensor.plain().to(Device{});
  if (!(tensor.device() == Device{})) backend(tensor.device()).synchronize();
  return plain;
}

void add_description(Hash& hash, const std::string& name, const Tensor& tensor) {
  hash.add_text(name);
  hash.add_text(ens::name(tensor.dtype()));
  hash.add_number(static_cast<uint64_t>(tensor.rank()));
  for (int64_t dim : tensor.shape().dims()) hash.add_number(static_cast<uint64_t>(dim));
}

// The checksum over everything but the bytes of the tensors, which enter by their own checksums.
std::string content_checksum(const Checkpoint& checkpoint,
                             const std::map<std::string, std::string>& tensor_sums) {
  Hash hash;
  hash.add_text(checkpoint.kind);
  hash.add_number(checkpoint.texts.size());
  for (const auto& [name, text] : checkpoint.texts) {
    hash.add_text(name);
    hash.add_text(text);
  }
  hash.add_number(checkpoint.numbers.size());
  for (const auto& [name, number] : checkpoint.numbers) {
    hash.add_text(name);
    hash.add_number(static_cast<uint64_t>(number));
  }
  hash.add_number(checkpoint.tensors.size());
  for (const auto& [name, tensor] : checkpoint.tensors) {
    add_description(hash, name, tensor);
    hash.add_text(tensor_sums.at(name));
  }
  return to_hex(hash.finish());
}

// ---- writing

// Why a tensor cannot have this name; empty if it can.
std::string name_fault(const std::string& name) {
  if (name.find('\0') != std::string::npos) return "contains a NUL";
  int depth = 0;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string_view part(name.data() + start, end - start);
    if (part.empty() || part == "." || part == "..") {
      return "has a part that is empty, '.' or '..'";
    }
    start = end + 1;
    if (++depth >= kMaxDepth) return "is nested too deeply";
  }
  return "";
}

class Writer {
 public:
  Writer(hid_t file, const std::string& where)
      : where_(where),
        file_(file),
        group_properties_(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, where),
        data_properties_(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, where),
        link_properties_(H5Pcreate(H5P_LINK_CREATE), H5Pclose, where),
        scalar_(H5Screate(H5S_SCALAR), H5Sclose, where) {
    // Without times, the same content is the same file.
    must(H5Pset_obj_track_times(group_properties_, false), where_);
    must(H5Pset_obj_track_times(data_properties_, false), where_);
    must(H5Pset_char_encoding(link_properties_, H5T_CSET_UTF8), where_);
    must(H5Pset_layout(data_properties_, H5D_CONTIGUOUS), where_);
  }

  void group(const std::string& path) {
    if (!groups_.insert(path).second) return;
    Handle(H5Gcreate2(file_, path.c_str(), link_properties_, group_properties_, H5P_DEFAULT),
           H5Gclose, where_ + ": " + path);
  }

  void text(hid_t object, const std::string& name, const std::string& value) {
    const std::string at = where_ + ": " + name;
    if (value.size() > kMaxText) fail("text of more than 16 MiB", at, "store it as a tensor");
    if (name.empty() || name.find('\0') != std::string::npos) fail("bad name of a text", at);
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose, at);
    must(H5Tset_size(type, value.size() + 1), at);
    must(H5Tset_cset(type, H5T_CSET_UTF8), at);
    Handle attribute(H5Acreate2(object, name.c_str(), type, scalar_, H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose, at);
    must(H5Awrite(attribute, type, value.c_str()), at);
  }

  void number(hid_t object, const std::string& name, int64_t value) {
    const std::string at = where_ + ": " + name;
    if (name.empty() || name.find('\0') != std::string::npos) fail("bad name of a number", at);
    Handle attribute(
        H5Acreate2(object, name.c_str(), H5T_STD_I64LE, scalar_, H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose, at);
    must(H5Awrite(attribute, H5T_STD_I64LE, &value), at);
  }

  // Returns the SHA-256 of the bytes, in hex.
  std::string tensor(const std::string& name, const Tensor& source, const Checkpoint& all) {
    const std::string at = where_ + ": tensor '" + name + "'";
    const std::string fault = name_fault(name);
    if (!fault.empty()) fail("the name " + fault, at);
    if (!source.defined()) fail("the tensor is not set", at);
    const Tensor plain = readable(source);
    for (size_t slash = name.find('/'); slash != std::string::npos;
         slash = name.find('/', slash + 1)) {
      const std::string folder = name.substr(0, slash);
      if (all.tensors.contains(folder)) fail("another tensor is named '" + folder + "'", at);
      group("/tensors/" + folder);
    }
    std::vector<hsize_t> dims(plain.shape().dims().begin(), plain.shape().dims().end());
    Handle space(
        dims.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(plain.rank(), dims.data(), nullptr),
        H5Sclose, at);
    const hid_t type = file_type(plain.dtype());
    Handle data(H5Dcreate2(file_, ("/tensors/" + name).c_str(), type, space, link_properties_,
                           data_properties_, H5P_DEFAULT),
                H5Dclose, at);
    must(H5Dwrite(data, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, plain.host()), at);
    const std::string sum = to_hex(sha256(plain.host(), plain.bytes()));
    text(data, "dtype", ens::name(plain.dtype()));
    text(data, "sha256", sum);
    return sum;
  }

 private:
  std::string where_;
  hid_t file_;
  Handle group_properties_, data_properties_, link_properties_, scalar_;
  std::set<std::string> groups_;
};

// Receives the memory of HDF5's in-memory file when that is closed, and with it the finished file:
// H5Fget_file_image would copy it, and leaves a wrong superblock checksum (HDF5 1.10.8).
struct FileMemory {
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> bytes;

  void attach(hid_t access, const std::string& where) {
    H5FD_file_image_callbacks_t calls{};
    calls.image_malloc = [](size_t size, H5FD_file_image_op_t, void*) { return std::malloc(size); };
    calls.image_memcpy = [](void* to, const void* from, size_t size, H5FD_file_image_op_t, void*) {
      return std::memcpy(to, from, size);
    };
    calls.image_realloc = [](void* p, size_t size, H5FD_file_image_op_t, void*) {
      return std::realloc(p, size);
    };
    calls.image_free = [](void* p, H5FD_file_image_op_t op, void* self) -> herr_t {
      if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE) {
        static_cast<FileMemory*>(self)->bytes.reset(static_cast<char*>(p));
      } else {
        std::free(p);
      }
      return 0;
    };
    calls.udata_copy = [](void* self) { return self; };
    calls.udata_free = [](void*) -> herr_t { return 0; };
    calls.udata = this;
    must(H5Pset_file_image_callbacks(access, &calls), where);
  }
};

// Returns the size of the file, which is in `memory` afterwards.
size_t build_in(FileMemory& memory, size_t expected_size, const Checkpoint& checkpoint,
                const std::string& where) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where);
  must(H5Pset_fapl_core(access, expected_size, /*backing_store=*/false), where);
  memory.attach(access, where);
  must(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), where);
  // Since 1.8 the library's own structures carry checksums and attributes may exceed 64 KiB.
  must(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), where);
  Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, where);
  must(H5Pset_obj_track_times(creation, false), where);
  // The name never reaches the disk; it only has to be one that no other open file has.
  Handle file(H5Fcreate("ensembler-checkpoint", H5F_ACC_TRUNC, creation, access), H5Fclose, where);

  Writer writer(file, where);
  writer.text(file, "kind", checkpoint.kind);
  writer.group("/texts");
  writer.group("/numbers");
  writer.group("/tensors");
  {
    Handle texts(H5Gopen2(file, "/texts", H5P_DEFAULT), H5Gclose, where);
    for (const auto& [name, text] : checkpoint.texts) writer.text(texts, name, text);
    Handle numbers(H5Gopen2(file, "/numbers", H5P_DEFAULT), H5Gclose, where);
    for (const auto& [name, number] : checkpoint.numbers) writer.number(numbers, name, number);
  }
  std::map<std::string, std::string> sums;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    sums[name] = writer.tensor(name, tensor, checkpoint);
  }
  writer.text(file, "checksum", content_checksum(checkpoint, sums));

  must(H5Fflush(file, H5F_SCOPE_LOCAL), where);
  const ssize_t size = H5Fget_file_image(file, nullptr, 0);
  if (size <= 0) fail(hdf5_reason(), where);
  return static_cast<size_t>(size);
}

// The whole file. HDF5 builds it in memory: its own disk driver cannot be closed cleanly once the
// disk is full.
std::string build(const Checkpoint& checkpoint, const std::string& where) {
  Hdf5Lock lock;
  size_t total = 1 << 16;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (tensor.defined()) total += tensor.bytes() + 1024;
  }
  FileMemory memory;
  const size_t size = build_in(memory, total, checkpoint, where);
  std::string bytes(kUserBlock + size, '\0');
  std::memcpy(bytes.data() + kUserBlock, memory.bytes.get(), size);
  const std::string block = user_block(bytes.size(), sha256(bytes.data() + kUserBlock, size));
  bytes.replace(0, kUserBlock, block);
  return bytes;
}

// ---- reading

class Reader {
 public:
  Reader(hid_t file, std::string where) : where_(std::move(where)), file_(file) {
    hsize_t size = 0;
    must(H5Fget_filesize(file, &size), where_);
    bytes_left_ = file_size_ = size;
    links_left_ = size / 16;  // a link takes more than that
  }

  std::string text(hid_t object, const std::string& name, const std::string& of = "") {
    Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, at(of + name));
    return value_of(attribute, of + name);
  }

  std::map<std::string, std::string> texts() {
    std::map<std::string, std::string> out;
    for_each_attribute("/texts", [&](const std::string& name, hid_t attribute) {
      out[name] = value_of(attribute, "text '" + name + "'");
    });
    return out;
  }

  std::map<std::string, int64_t> numbers() {
    std::map<std::string, int64_t> out;
    for_each_attribute("/numbers", [&](const std::string& name, hid_t attribute) {
      const std::string entry = at("number '" + name + "'");
      Handle type(H5Aget_type(attribute), H5Tclose, entry);
      check_scalar(attribute, entry);
      if (H5Tequal(type, H5T_STD_I64LE) <= 0) fail("not a 64-bit integer", entry, kWriteAgain);
      int64_t value = 0;
      if (H5Aread(attribute, H5T_STD_I64LE, &value) < 0) fail(hdf5_reason(), entry, kWriteAgain);
      out[name] = value;
    });
    return out;
  }

  void tensors(std::map<std::string, Tensor>& out, std::map<std::string, std::string>& sums) {
    Handle root = open_group("/tensors");
    walk(root, "", 1, out, sums);
  }

 private:
  std::string at(const std::string& entry) const { return where_ + ": " + entry; }

  Handle open_group(const char* name) {
    check_link(file_, name + 1, name);  // an external link would open another file
    return Handle(H5Gopen2(file_, name, H5P_DEFAULT), H5Gclose, at(name));
  }

  void check_link(hid_t group, const char* link, const std::string& entry) {
    H5L_info_t info;
    if (H5Lget_info(group, link, &info, H5P_DEFAULT) < 0) {
      fail(hdf5_reason(), at(entry), kWriteAgain);
    }
    if (info.type != H5L_TYPE_HARD) {
      fail("links to elsewhere are not allowed", at(entry), kWriteAgain);
    }
  }

  void check_scalar(hid_t attribute, const std::string& entry) {
    Handle space(H5Aget_space(attribute), H5Sclose, entry);
    if (H5Sget_simple_extent_type(space) != H5S_SCALAR) {
      fail("not a single value", entry, kWriteAgain);
    }
  }

  std::string value_of(hid_t attribute, const std::string& entry_name) {
    const std::string entry = at(entry_name);
    Handle type(H5Aget_type(attribute), H5Tclose, entry);
    check_scalar(attribute, entry);
    const size_t size = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || size == 0) {
      fail("not a text of fixed length", entry, kWriteAgain);
    }
    if (size > kMaxText + 1 || size > file_size_) fail("impossible size", entry, kWriteAgain);
    std::string value(size, '\0');
    if (H5Aread(attribute, type, value.data()) < 0) fail(hdf5_reason(), entry, kWriteAgain);
    if (value.back() != '\0') fail("not ended by NUL", entry, kWriteAgain);
    value.pop_back();
    return value;
  }

  template <typename Function>
  void for_each_attribute(const char* group_name, Function function) {
    Handle group = open_group(group_name);
    H5O_info_t info;
    must(H5Oget_info(group, &info), at(group_name));
    for (hsize_t i = 0; i < info.num_attrs; ++i) {
      Handle attribute(
          H5Aopen_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
          H5Aclose, at(group_name));
      const ssize_t length = H5Aget_name(attribute, 0, nullptr);
      if (length <= 0) fail("attribute without a name", at(group_name), kWriteAgain);
      std::string name(static_cast<size_t>(length), '\0');
      H5Aget_name(attribute, name.size() + 1, name.data());
      function(name, static_cast<hid_t>(attribute));
    }
  }

  // In the file's order: for any other, HDF5 1.10.8 makes a table first, and frees what is not
  // there when a link turns out to be damaged on the way.
  std::vector<std::string> link_names(hid_t group, const std::string& here) {
    struct Found {
      std::vector<std::string> names;
      hsize_t& left;
    } found{{}, links_left_};
    const auto add = [](hid_t, const char* name, const H5L_info_t*, void* to) -> herr_t {
      auto& f = *static_cast<Found*>(to);
      if (f.left == 0) return 1;
      --f.left;
      f.names.emplace_back(name);
      return 0;
    };
    const herr_t end = H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &found);
    if (end < 0) fail(hdf5_reason(), at(here), kWriteAgain);
    // A group may hold itself; the count of links bounds the walk.
    if (end > 0) fail("more links than the file has room for", at(here), kWriteAgain);
    return std::move(found.names);
  }

  void walk(hid_t group, const std::string& prefix, int depth, std::map<std::string, Tensor>& out,
            std::map<std::string, std::string>& sums) {
    const std::string here = "/tensors/" + prefix;
    if (depth > kMaxDepth) fail("groups nested too deeply", at(here), kWriteAgain);
    for (const std::string& link : link_names(group, here)) {
      const std::string name = prefix + link;
      check_link(group, link.c_str(), "tensor '" + name + "'");
      Handle object(H5Oopen(group, link.c_str(), H5P_DEFAULT), H5Oclose, at(here));
      switch (H5Iget_type(object)) {
        case H5I_GROUP:
          walk(object, name + "/", depth + 1, out, sums);
          break;
        case H5I_DATASET: {
          std::string sum;
          out[name] = tensor(object, name, sum);
          sums[name] = sum;
          break;
        }
        default:
          fail("neither a group nor a tensor", at(name), kWriteAgain);
      }
    }
  }

  Tensor tensor(hid_t data, const std::string& name, std::string& sum) {
    const std::string of = "tensor '" + name + "'";
    const std::string entry = at(of);
    Dtype dtype{};
    try {
      dtype = parse_dtype(text(data, "dtype", of + ", "));
    } catch (const Error& error) {
      fail(error.what(), entry, kWriteAgain);
    }
    sum = text(data, "sha256", of + ", ");

    Handle type(H5Dget_type(data), H5Tclose, entry);
    if (H5Tequal(type, file_type(dtype)) <= 0) {
      fail(std::string("the stored numbers are not ") + ens::name(dtype), entry, kWriteAgain);
    }
    Handle properties(H5Dget_create_plist(data), H5Pclose, entry);
    if (H5Pget_layout(properties) != H5D_CONTIGUOUS || H5Pget_external_count(properties) != 0) {
      fail("not stored in one piece within the file", entry, kWriteAgain);
    }

    Handle space(H5Dget_space(data), H5Sclose, entry);
    const int rank = H5Sget_simple_extent_ndims(space);
    const H5S_class_t space_class = H5Sget_simple_extent_type(space);
    if (rank < 0 || rank > Shape::kMaxRank ||
        (space_class != H5S_SCALAR && space_class != H5S_SIMPLE)) {
      fail("impossible shape", entry, kWriteAgain);
    }
    hsize_t dims[Shape::kMaxRank] = {};
    if (rank > 0) must(H5Sget_simple_extent_dims(space, dims, nullptr), entry);
    // Each size and the product are held against the file's size before any memory is taken. Links
    // to one data set count each time: together they must not need more than the file has.
    hsize_t bytes = size_of(dtype);
    bool empty = false;
    for (int axis = 0; axis < rank; ++axis) empty |= dims[axis] == 0;
    for (int axis = 0; axis < rank; ++axis) {
      if (dims[axis] > file_size_) fail("size larger than the file", entry, kWriteAgain);
      if (!empty && __builtin_mul_overflow(bytes, dims[axis], &bytes)) bytes = ~hsize_t{0};
    }
    if (empty) bytes = 0;
    if (bytes > bytes_left_) fail("size larger than the file", entry, kWriteAgain);
    if (bytes != 0 && H5Dget_storage_size(data) != bytes) {
      fail("stored size and shape do not agree", entry, kWriteAgain);
    }
    const haddr_t offset = H5Dget_offset(data);
    if (bytes != 0 && (offset == HADDR_UNDEF || offset > file_size_ - bytes)) {
      fail("the data lie outside the file", entry, kWriteAgain);
    }
    bytes_left_ -= bytes;

    Shape shape(std::span<const int64_t>(reinterpret_cast<const int64_t*>(dims),
                                         static_cast<size_t>(rank)));
    Tensor out = Tensor::empty(shape, dtype);
    if (H5Dread(data, file_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.host()) < 0) {
      fail(hdf5_reason(), entry, kWriteAgain);
    }
    if (to_hex(sha256(out.host(), out.bytes())) != sum) {
      fail("damaged: the SHA-256 of the data is not the stored one", entry, kWriteAgain);
    }
    return out;
  }

  std::string where_;
  hid_t file_;
  hsize_t file_size_ = 0, bytes_left_ = 0, links_left_ = 0;
};

template <typename Map>
const typename Map::mapped_type& lookup(const Map& map, const std::string& name, const char* what,
                                        const std::string& file) {
  auto found = map.find(name);
  if (found == map.end()) {
    fail(std::string("no ") + what + " '" + name + "'", file.empty() ? "checkpoint" : file,
         "was it written by another version?");
  }
  return found->second;
}

}  // namespace

const std::string& Checkpoint::text(const std::string& name) const {
  return lookup(texts, name, "text", file);
}
int64_t Checkpoint::number(const std::string& name) const {
  return lookup(numbers, name, "number", file);
}
const Tensor& Checkpoint::tensor(const std::string& name) const {
  return lookup(tensors, name, "tensor", file);
}

void write_checkpoint(const fs::path& file, const Checkpoint& checkpoint, bool secret) {
  write_file_atomically(file, build(checkpoint, file.string()), secret);
}

Checkpoint read_checkpoint(const fs::path& path, const std::string& kind) {
  check_user_block(path);
  const std::string where = path.string();

  Hdf5Lock lock;
  Handle file = open_hdf5(path);

  Reader reader(file, where);
  Checkpoint checkpoint;
  checkpoint.file = where;
  checkpoint.kind = reader.text(file, "kind");
  if (!kind.empty() && checkpoint.kind != kind) {
    fail("this is the '" + checkpoint.kind.substr(0, 32) + "' file, and the '" + kind +
             "' file is needed",
         where, "give the other one");
  }
  checkpoint.texts = reader.texts();
  checkpoint.numbers = reader.numbers();
  std::map<std::string, std::string> sums;
  reader.tensors(checkpoint.tensors, sums);
  if (reader.text(file, "checksum") != content_checksum(checkpoint, sums)) {
    fail("damaged: names, texts or numbers do not match their checksum", where, kWriteAgain);
  }
  return checkpoint;
}

std::string digest(const std::map<std::string, Tensor>& tensors) {
  Hash hash;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) fail("the tensor is not set", "digest: '" + name + "'");
    const Tensor plain = readable(tensor);
    add_description(hash, name, plain);
    hash.add(plain.host(), plain.bytes());
  }
  return hash.finish();
}

}  // namespace ens
