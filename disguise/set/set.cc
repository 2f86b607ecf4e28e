// SPDX-License-Identifier: Apache-2.0
#include "disguise/set/set.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/strings.h"
#include "base/threads.h"
#include "nn/io/hdf5_file.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr char kKind[] = "disguised-set";
constexpr int64_t kVersion = 1;
constexpr hsize_t kSumBytes = 32;
constexpr size_t kMaxText = 1 << 16;
constexpr int64_t kMaxClasses = 1 << 24;

// Of an element in file and memory.
Handle element_type(Dtype dtype, const std::string& where) {
  Handle type(H5Tcopy(dtype == Dtype::kU8 ? H5T_STD_U8LE : H5T_IEEE_F32LE), H5Tclose, where);
  if (dtype == Dtype::kF16) {  // IEEE 754 binary16, which HDF5 1.10 does not name
    must(H5Tset_fields(type, 15, 10, 5, 0, 10), where);
    must(H5Tset_size(type, 2), where);
    must(H5Tset_ebias(type, 15), where);
  }
  return type;
}

int64_t chunk_rows(const DisguisedSetInfo& info) {
  return std::min(kDisguisedChunkRows, info.rows);
}
int64_t chunks_of(const DisguisedSetInfo& info) {
  return (info.rows + chunk_rows(info) - 1) / chunk_rows(info);
}

std::vector<hsize_t> dims_of(int64_t rows, const Shape& shape) {
  std::vector<hsize_t> dims{static_cast<hsize_t>(rows)};
  dims.insert(dims.end(), shape.dims().begin(), shape.dims().end());
  return dims;
}

// The file's and the memory's part of /x with these rows.
struct RowSelection {
  Handle memory, file;
  RowSelection(hid_t data, int64_t first, int64_t count, const Shape& shape,
               const std::string& where)
      : memory(H5Screate_simple(shape.rank() + 1, dims_of(count, shape).data(), nullptr), H5Sclose,
               where),
        file(H5Dget_space(data), H5Sclose, where) {
    std::vector<hsize_t> start(static_cast<size_t>(shape.rank()) + 1, 0);
    start[0] = static_cast<hsize_t>(first);
    must(H5Sselect_hyperslab(file, H5S_SELECT_SET, start.data(), nullptr,
                             dims_of(count, shape).data(), nullptr),
         where);
  }
};

bool is_share(float v) { return v >= 0 && v <= 1.0001f; }  // false for NaN

// Why no set can have these facts; empty if one can.
std::string fault_of(const DisguisedSetInfo& info) {
  if (info.rows < 1) return "a set has at least one row";
  if (info.classes < 2) return "a set has at least two classes";
  if (info.classes > kMaxClasses) return "more classes than a set may have";
  if (info.shape.rank() < 1 || info.shape.rank() > Shape::kMaxRank - 1)
    return "rows of an impossible shape";
  for (const int64_t size : info.shape.dims()) {
    if (size < 1 || size > (int64_t{1} << 24)) return "rows of an impossible shape";
  }
  if (info.dtype != Dtype::kF16 && info.dtype != Dtype::kF32 && info.dtype != Dtype::kU8) {
    return std::string("elements cannot be stored as ") + name(info.dtype);
  }
  if (!std::isfinite(info.scale) || info.scale == 0 || !std::isfinite(info.offset))
    return "an impossible scale";
  return "";
}

}  // namespace

// ---- writing

struct DisguisedSetWriter::Impl {
  fs::path file;
  std::string where, temporary;
  DisguisedSetInfo info;
  std::optional<Handle> hdf5, data;
  std::vector<int32_t> labels;
  std::vector<float> shares;   // soft labels
  int64_t added = 0;           // rows so far
  std::vector<uint8_t> chunk;  // as stored; the rows that no whole chunk holds yet
  std::string sums;            // of the chunks that are written
  int64_t written = 0;         // rows in the file
  std::vector<double> sum, square;
  bool finished = false;

  Impl(const fs::path& to, const DisguisedSetInfo& facts)
      : file(to), where(to.string()), info(facts) {
    const std::string fault = fault_of(info);
    if (!fault.empty()) usage_fail("no disguised set: " + fault, where);
    sum.resize(static_cast<size_t>(info.shape[0]));
    square.resize(sum.size());
    refuse_existing(file);
    temporary = where + ".XXXXXX" + std::string(kTemporarySuffix);
    const Fd created(
        mkostemps(temporary.data(), static_cast<int>(kTemporarySuffix.size()), O_CLOEXEC));  // 0600
    if (!created)
      fail(std::string("cannot create the file: ") + std::strerror(errno), where,
           "choose another folder");
    try {
      create();
    } catch (...) {
      abandon();
      throw;
    }
  }

  ~Impl() {
    if (!finished) abandon();
  }

  // What HDF5 still holds goes nowhere: on a full disk it could not be written, and HDF5 would try
  // until the process ends.
  void abandon() {
    Hdf5Lock lock;
    void* fd = nullptr;
    if (hdf5 && H5Fget_vfd_handle(*hdf5, H5P_DEFAULT, &fd) >= 0) {
      const Fd nowhere(memfd_create("abandoned", MFD_CLOEXEC));
      if (nowhere) dup3(nowhere.get(), *static_cast<int*>(fd), O_CLOEXEC);
    }
    data.reset();
    hdf5.reset();
    unlink(temporary.c_str());
  }

  void check(bool ok, const char* what) const {
    if (!ok)
      fail(std::string(what) + ": " + std::strerror(errno), where,
           "free some disk space, or choose another folder");
  }

  // Of calls that write: HDF5 says the system's error only in its text.
  void wrote(herr_t status) const {
    if (status >= 0) return;
    std::string reason = hdf5_reason();
    const size_t number = reason.find("errno = ");
    if (number != std::string::npos) reason = std::strerror(std::atoi(reason.c_str() + number + 8));
    fail("cannot write the file: " + reason, where,
         "free some disk space, or choose another folder");
  }

  Handle dataset(const char* name, const Handle& type, const std::vector<hsize_t>& dims,
                 const std::vector<hsize_t>& chunked) {
    Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, where);
    must(H5Pset_obj_track_times(properties, false), where);
    if (!chunked.empty())
      must(H5Pset_chunk(properties, static_cast<int>(chunked.size()), chunked.data()), where);
    Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose, where);
    must(H5Pset_chunk_cache(access, 0, 0, 1),
         where);  // written at once, so that errors are seen where they happen
    Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose,
                 where);
    return Handle(H5Dcreate2(*hdf5, name, type, space, H5P_DEFAULT, properties, access), H5Dclose,
                  where);
  }

  void create() {
    Hdf5Lock lock;
    Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, where);
    must(H5Pset_userblock(creation, kUserBlock), where);
    must(H5Pset_obj_track_times(creation, false), where);
    Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where);
    must(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), where);
    must(H5Pset_file_locking(access, false, true), where);
    hdf5.emplace(H5Fcreate(temporary.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, where);
    reserve();
    data.emplace(dataset("/x", element_type(info.dtype, where), dims_of(info.rows, info.shape),
                         dims_of(chunk_rows(info), info.shape)));
  }

  // Takes the disk space that the whole file needs, so that a full disk is noticed before the work
  // and not after it: HDF5 cannot go on once a write has failed. A little more than needed; what is
  // left over goes with the last ftruncate().
  void reserve() {
    const int64_t chunks = chunks_of(info),
                  one = chunk_rows(info) * static_cast<int64_t>(row_bytes());
    const int64_t bytes = chunks * (one + 256) + info.rows * 4 + (int64_t{1} << 17);
    rlimit most{};
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && static_cast<uint64_t>(bytes) > most.rlim_cur) {
      errno = EFBIG;
      check(false, "cannot write the file");
    }
    const Fd fd(open(temporary.c_str(), O_RDWR | O_CLOEXEC));
    check(bool(fd), "cannot open the file");
    // Some file systems cannot (EOPNOTSUPP).
    check(fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, bytes) == 0 ||
              (errno != ENOSPC && errno != EDQUOT && errno != EFBIG),
          "cannot write the file");
  }

  size_t row_bytes() const { return static_cast<size_t>(info.shape.numel()) * size_of(info.dtype); }

  void add_labels(std::span<const int32_t> of_rows) {
    for (const int32_t label : of_rows) {
      if (label < 0 || label >= info.classes)
        fail("a label is not one of the set's classes", where);
    }
    labels.insert(labels.end(), of_rows.begin(), of_rows.end());
  }

  void add_labels(const Tensor& of_rows) {
    if (!std::ranges::all_of(of_rows.span<float>(), is_share))
      fail("a soft label is no share of a class", where);
    const auto values = of_rows.span<float>();
    shares.insert(shares.end(), values.begin(), values.end());
  }

  template <typename Labels>
  void add(const Tensor& rows, const Labels& of_rows, int64_t count, bool soft) {
    if (soft != info.soft_labels) fail("labels of another kind than announced", where);
    if (rows.rank() != info.shape.rank() + 1 || rows.numel() != count * info.shape.numel() ||
        rows.dim(0) != count) {
      fail("rows of shape " + rows.shape().str() + " do not fit a set of " + info.shape.str(),
           where);
    }
    if (added + count > info.rows) fail("more rows than the set was announced with", where);
    add_labels(of_rows);
    added += count;
    const size_t whole = static_cast<size_t>(chunk_rows(info)) * row_bytes();
    for (int64_t row = 0; row < count;) {
      const int64_t room = static_cast<int64_t>((whole - chunk.size()) / row_bytes());
      const int64_t now = std::min(count - row, room);
      store(rows.rows(row, now));
      row += now;
      if (chunk.size() == whole) write_chunk();
    }
    if (added == info.rows && !chunk.empty()) write_chunk();
  }

  // Converts rows to stored elements, at the end of `chunk`, and counts them.
  void store(const Tensor& rows) {
    const size_t old = chunk.size();
    chunk.resize(old + static_cast<size_t>(rows.numel()) * size_of(info.dtype));
    const float* from = rows.data<float>();
    uint8_t* to = chunk.data() + old;
    const auto per_channel = rows.numel() / rows.dim(0) / info.shape[0];
    const int64_t channels = info.shape[0],
                  parts = rows.dim(0) * channels;  // a part: one channel of one row
    std::vector<double> sums_of(static_cast<size_t>(2 * parts));
    parallel_for(parts, 64, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        float kept[256];
        double total = 0, squares = 0;
        for (int64_t at = part * per_channel; at < (part + 1) * per_channel; at += 256) {
          const int64_t n = std::min<int64_t>(256, (part + 1) * per_channel - at);
          encode(from + at, n, to + at * static_cast<int64_t>(size_of(info.dtype)), kept);
          float a = 0;
          double b = 0;
          for (int64_t i = 0; i < n; ++i) {
            a += kept[i];
            b += static_cast<double>(kept[i]) * kept[i];
          }
          total += a;
          squares += b;
        }
        sums_of[static_cast<size_t>(2 * part)] = total;
        sums_of[static_cast<size_t>(2 * part + 1)] = squares;
      }
    });
    for (int64_t part = 0; part < parts; ++part) {
      const auto c = static_cast<size_t>(part % channels);
      sum[c] += sums_of[static_cast<size_t>(2 * part)];
      square[c] += sums_of[static_cast<size_t>(2 * part + 1)];
    }
    for (const double total : sum) {
      if (!std::isfinite(total)) fail("a row has an element that is not finite", where);
    }
  }

  // `kept`: the values as a reader will see them.
  void encode(const float* from, int64_t n, uint8_t* to, float* kept) const {
    if (info.dtype == Dtype::kF32) {
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
      std::copy_n(from, n, kept);
    } else if (info.dtype == Dtype::kU8) {
      for (int64_t i = 0; i < n; ++i) {
        const float level = (from[i] - info.offset) / info.scale;
        to[i] = level > 0 ? static_cast<uint8_t>(std::min(level, 255.0f) + 0.5f) : 0;
        // NaN, of which that makes 0, shows in the sums.
        kept[i] =
            std::isfinite(from[i]) ? static_cast<float>(to[i]) * info.scale + info.offset : from[i];
      }
    } else {
      constexpr float kMax = 65504;
      for (int64_t i = 0; i < n; ++i) {
        kept[i] = std::isfinite(from[i]) ? std::clamp(from[i], -kMax, kMax) : from[i];
        const Float16 half(kept[i]);
        std::memcpy(to + 2 * i, &half.bits, 2);
      }
    }
  }

  void write_chunk() {
    const auto count = static_cast<int64_t>(chunk.size() / row_bytes());
    sums += sha256(chunk.data(), chunk.size());
    {
      Hdf5Lock lock;
      const RowSelection selection(*data, written, count, info.shape, where);
      wrote(H5Dwrite(*data, element_type(info.dtype, where), selection.memory, selection.file,
                     H5P_DEFAULT, chunk.data()));
    }
    written += count;
    chunk.clear();
  }

  void attribute(const char* name, hid_t type, const std::vector<hsize_t>& dims,
                 const void* value) {
    Handle space(dims.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, dims.data(), nullptr),
                 H5Sclose, where);
    Handle made(H5Acreate2(*hdf5, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, where);
    wrote(H5Awrite(made, type, value));
  }

  void text(const char* name, const std::string& value) {
    if (value.size() > kMaxText) fail(std::string("the text '") + name + "' is too long", where);
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose, where);
    must(H5Tset_size(type, value.size() + 1), where);
    must(H5Tset_cset(type, H5T_CSET_UTF8), where);
    attribute(name, type, {}, value.c_str());
  }

  void numbers(const char* name, const std::vector<float>& values) {
    attribute(name, H5T_IEEE_F32LE, {static_cast<hsize_t>(values.size())}, values.data());
  }

  void write_facts() {
    const double n =
        static_cast<double>(info.rows) * static_cast<double>(info.shape.numel() / info.shape[0]);
    for (size_t c = 0; c < sum.size(); ++c) {
      const double mean = sum[c] / n;
      const double deviation = std::sqrt(std::max(0.0, square[c] / n - mean * mean));
      info.mean.push_back(static_cast<float>(mean));
      info.stddev.push_back(deviation > 0 ? static_cast<float>(deviation) : 1.0f);
    }
    Hdf5Lock lock;
    text("kind", kKind);
    attribute("version", H5T_STD_I64LE, {}, &kVersion);
    text("method", info.method);
    text("settings", info.settings);
    text("key_id", info.key_id);
    text("set_id", info.set_id);
    text("split", info.split);
    text("marks", join(info.marks, "\n"));
    const int64_t classes = info.classes;
    attribute("classes", H5T_STD_I64LE, {}, &classes);
    attribute("shape", H5T_STD_I64LE, {static_cast<hsize_t>(info.shape.rank())},
              info.shape.dims().data());
    numbers("mean", info.mean);
    numbers("stddev", info.stddev);
    attribute("scale", H5T_IEEE_F32LE, {}, &info.scale);
    attribute("offset", H5T_IEEE_F32LE, {}, &info.offset);
    Handle int32(H5Tcopy(H5T_STD_I32LE), H5Tclose, where),
        byte(H5Tcopy(H5T_STD_U8LE), H5Tclose, where);
    if (info.soft_labels) {
      Handle float32(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, where);
      const auto classes_there = static_cast<hsize_t>(info.classes);
      const Handle y =
          dataset("/y_soft", float32, {shares.size() / classes_there, classes_there}, {});
      wrote(H5Dwrite(y, float32, H5S_ALL, H5S_ALL, H5P_DEFAULT, shares.data()));
    } else {
      const Handle y = dataset("/y", int32, {labels.size()}, {});
      wrote(H5Dwrite(y, int32, H5S_ALL, H5S_ALL, H5P_DEFAULT, labels.data()));
    }
    const Handle x_sums = dataset("/x_sha256", byte, {sums.size() / kSumBytes, kSumBytes}, {});
    wrote(H5Dwrite(x_sums, byte, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums.data()));
    wrote(H5Fflush(*hdf5, H5F_SCOPE_LOCAL));
  }

  void finish() {
    if (written != info.rows)
      fail("the set has " + std::to_string(written) + " of its " + std::to_string(info.rows) +
               " rows",
           where);
    write_facts();
    data.reset();
    hdf5.reset();
    const Fd fd(open(temporary.c_str(), O_RDWR | O_CLOEXEC));
    check(bool(fd), "cannot read the file again");
    stamp(fd);
    check(fchmod(fd.get(), 0644) == 0, "cannot set the file's permissions");
    check(fsync(fd.get()) == 0, "cannot write the file");
    name_new_file(temporary, file);
    finished = true;
  }

  void stamp(const Fd& fd) const {
    std::string buffer(1 << 18, '\0');
    Hash hash;
    size_t size = kUserBlock;
    for (ssize_t n;
         (n = pread(fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(size))) != 0;) {
      check(n > 0, "cannot read the file again");
      hash.add(buffer.data(), static_cast<size_t>(n));
      size += static_cast<size_t>(n);
    }
    check(ftruncate(fd.get(), static_cast<off_t>(size)) == 0, "cannot write the file");
    check(write_all(fd, user_block(size, hash.finish())), "cannot write the file");
  }
};

DisguisedSetWriter::DisguisedSetWriter(const fs::path& file, const DisguisedSetInfo& info)
    : impl_(std::make_unique<Impl>(file, info)) {}
DisguisedSetWriter::~DisguisedSetWriter() = default;
void DisguisedSetWriter::add(const Tensor& rows, std::span<const int32_t> labels) {
  impl_->add(rows, labels, static_cast<int64_t>(labels.size()), false);
}
void DisguisedSetWriter::add(const Tensor& rows, const Tensor& shares) {
  if (shares.rank() != 2 || shares.dim(1) != impl_->info.classes)
    fail("soft labels " + shares.shape().str() + " do not fit the set's classes", impl_->where);
  impl_->add(rows, shares, shares.dim(0), true);
}
DisguisedSetInfo DisguisedSetWriter::finish() {
  impl_->finish();
  return impl_->info;
}

// ---- reading

struct DisguisedSetReader::Impl {
  std::string where;
  Handle hdf5, data;
  DisguisedSetInfo info;
  std::vector<int32_t> labels;
  Tensor shares;  // soft labels
  std::string sums;

  std::mutex mutex;  // of the chunk that is kept
  int64_t kept_chunk = -1;
  std::vector<uint8_t> kept;

  static Handle opened(const fs::path& file) {
    check_user_block(file);
    Hdf5Lock lock;
    return open_hdf5(file);
  }

  Handle open_data(const char* name) {
    H5L_info_t link;
    if (H5Lget_info(hdf5, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD) {
      fail(std::string("not a disguised set: there is no ") + name, where,
           "give a file of `ensembler disguise apply`");
    }
    Handle object(H5Dopen2(hdf5, name, H5P_DEFAULT), H5Dclose, where + ": " + name);
    return object;
  }

  static Handle first_look(Impl& self) {
    Hdf5Lock lock;
    if (self.text("kind") != kKind) {
      fail("this is the '" + self.text("kind").substr(0, 32) +
               "' file, and a disguised set is needed",
           self.where, "give a file of `ensembler disguise apply`");
    }
    if (const int64_t version = self.number("version"); version != kVersion) {
      fail("the set has version " + std::to_string(version) + ", and this program reads version " +
               std::to_string(kVersion),
           self.where,
           version > kVersion ? "it was written by a newer version: update the program"
                              : kWriteAgain);
    }
    return self.open_data("/x");
  }

  explicit Impl(const fs::path& file)
      : where(file.string()), hdf5(opened(file)), data(first_look(*this)) {
    Hdf5Lock lock;
    read_facts();
    check_data();
    read_labels();
    check_elements();
  }

  // ---- attributes

  Handle attribute(const char* name, const std::string& at) {
    if (H5Aexists(hdf5, name) <= 0) fail("the fact is missing", at, kWriteAgain);
    return Handle(H5Aopen(hdf5, name, H5P_DEFAULT), H5Aclose, at);
  }

  std::string text(const char* name) {
    const std::string at = where + ": " + name;
    const Handle found = attribute(name, at);
    const Handle type(H5Aget_type(found), H5Tclose, at), space(H5Aget_space(found), H5Sclose, at);
    const size_t size = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || size == 0 ||
        size > kMaxText + 1 || H5Sget_simple_extent_type(space) != H5S_SCALAR) {
      fail("not a text of fixed length", at, kWriteAgain);
    }
    std::string value(size, '\0');
    if (H5Aread(found, type, value.data()) < 0 || value.back() != '\0')
      fail("not a text", at, kWriteAgain);
    value.pop_back();
    return value;
  }

  // `count` values of this type, or, if it is 0, as many as there are, up to `most`.
  template <typename T>
  std::vector<T> values(const char* name, hid_t wanted, size_t count, size_t most) {
    const std::string at = where + ": " + name;
    const Handle found = attribute(name, at);
    const Handle type(H5Aget_type(found), H5Tclose, at), space(H5Aget_space(found), H5Sclose, at);
    const hssize_t there = H5Sget_simple_extent_npoints(space);
    if (H5Tequal(type, wanted) <= 0)
      fail("its values have another type, or another byte order", at, kWriteAgain);
    if (there < 1 || (count != 0 && static_cast<size_t>(there) != count) ||
        static_cast<size_t>(there) > most) {
      fail("an impossible number of values", at, kWriteAgain);
    }
    std::vector<T> out(static_cast<size_t>(there));
    if (H5Aread(found, wanted, out.data()) < 0) fail(hdf5_reason(), at, kWriteAgain);
    return out;
  }
  int64_t number(const char* name) { return values<int64_t>(name, H5T_STD_I64LE, 1, 1)[0]; }
  float real(const char* name) { return values<float>(name, H5T_IEEE_F32LE, 1, 1)[0]; }

  void read_facts() {
    info.method = text("method");
    info.settings = text("settings");
    info.key_id = text("key_id");
    info.set_id = text("set_id");
    info.split = text("split");
    info.marks = split_text(text("marks"), '\n');
    info.classes = static_cast<int>(std::clamp<int64_t>(number("classes"), 0, kMaxClasses + 1));
    info.shape = Shape(values<int64_t>("shape", H5T_STD_I64LE, 0, Shape::kMaxRank - 1));
    info.scale = real("scale");
    info.offset = real("offset");
  }

  // ---- /x, /x_sha256, /y

  std::vector<hsize_t> dims(hid_t of, const std::string& at) {
    const Handle space(H5Dget_space(of), H5Sclose, at);
    const int rank = H5Sget_simple_extent_ndims(space);
    if (H5Sget_simple_extent_type(space) != H5S_SIMPLE || rank < 1 || rank > Shape::kMaxRank) {
      fail("impossible shape", at, kWriteAgain);
    }
    std::vector<hsize_t> out(static_cast<size_t>(rank));
    must(H5Sget_simple_extent_dims(space, out.data(), nullptr), at);
    return out;
  }

  void check_data() {
    const std::string at = where + ": x";
    const Handle type(H5Dget_type(data), H5Tclose, at),
        properties(H5Dget_create_plist(data), H5Pclose, at);
    bool known = false;
    for (const Dtype dtype : {Dtype::kF16, Dtype::kF32, Dtype::kU8}) {
      if (H5Tequal(type, element_type(dtype, at)) <= 0) continue;
      info.dtype = dtype;
      known = true;
    }
    if (!known)
      fail("the rows are neither float16, float32 nor uint8, little-endian", at, kWriteAgain);
    const std::vector<hsize_t> size = dims(data, at);
    info.rows = static_cast<int64_t>(std::min<hsize_t>(size[0], hsize_t{1} << 48));
    const std::string fault = fault_of(info);
    if (!fault.empty()) fail("no disguised set: " + fault, where, kWriteAgain);
    const std::vector<hsize_t> wanted = dims_of(info.rows, info.shape),
                               chunked = dims_of(chunk_rows(info), info.shape);
    std::vector<hsize_t> found(size.size());
    if (size != wanted || H5Pget_layout(properties) != H5D_CHUNKED ||
        H5Pget_nfilters(properties) != 0 ||
        H5Pget_chunk(properties, static_cast<int>(found.size()), found.data()) !=
            static_cast<int>(found.size()) ||
        found != chunked) {
      fail("the rows are not stored as a disguised set's", at, kWriteAgain);
    }
    // Held against the file's size before memory is taken.
    hsize_t file_size = 0, bytes = size_of(info.dtype) * static_cast<hsize_t>(chunks_of(info));
    must(H5Fget_filesize(hdf5, &file_size), at);
    for (const hsize_t n : chunked) {
      if (__builtin_mul_overflow(bytes, n, &bytes)) bytes = ~hsize_t{0};
    }
    if (bytes > file_size || H5Dget_storage_size(data) != bytes) {
      fail("the rows do not have the size that the file says", at, kWriteAgain);
    }
    info.mean = values<float>("mean", H5T_IEEE_F32LE, static_cast<size_t>(info.shape[0]), 1 << 24);
    info.stddev =
        values<float>("stddev", H5T_IEEE_F32LE, static_cast<size_t>(info.shape[0]), 1 << 24);
    const auto bad = [](float value) { return !std::isfinite(value); };
    if (std::ranges::any_of(info.mean, bad) ||
        std::ranges::any_of(info.stddev, [&](float value) { return bad(value) || value <= 0; })) {
      fail("a mean that is not finite, or a deviation that is not above 0", where, kWriteAgain);
    }
  }

  void read_contiguous(const char* name, hid_t type, const std::vector<hsize_t>& wanted, void* to,
                       size_t bytes) {
    const std::string at = where + ": " + (name + 1);
    const Handle object = open_data(name);
    const Handle stored(H5Dget_type(object), H5Tclose, at),
        properties(H5Dget_create_plist(object), H5Pclose, at);
    if (H5Tequal(stored, type) <= 0 || dims(object, at) != wanted)
      fail("another type or shape than the rows ask for", at, kWriteAgain);
    if (H5Pget_layout(properties) != H5D_CONTIGUOUS || H5Pget_external_count(properties) != 0 ||
        H5Dget_storage_size(object) != bytes) {
      fail("not stored in one piece within the file", at, kWriteAgain);
    }
    if (H5Dread(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) < 0)
      fail(hdf5_reason(), at, kWriteAgain);
  }

  void read_shares() {
    info.soft_labels = true;
    const std::string at = where + ": y_soft";
    const auto rows = static_cast<hsize_t>(info.rows), classes = static_cast<hsize_t>(info.classes);
    hsize_t file_size = 0;
    must(H5Fget_filesize(hdf5, &file_size), where);
    if (rows > file_size / sizeof(float) / classes)
      fail("more soft labels than the file has room for", at, kWriteAgain);
    shares = Tensor::empty({info.rows, info.classes});
    read_contiguous("/y_soft", H5T_IEEE_F32LE, {rows, classes}, shares.data<float>(),
                    shares.bytes());
    const auto values = shares.span<float>();
    if (!std::ranges::all_of(values, is_share))
      fail("a soft label is no share of a class", at, kWriteAgain);
    for (size_t row = 0; row < rows; ++row) {
      const auto own = values.subspan(row * classes, classes);
      labels.push_back(static_cast<int32_t>(std::ranges::max_element(own) - own.begin()));
    }
  }

  void read_labels() {
    const auto rows = static_cast<size_t>(info.rows), chunks = static_cast<size_t>(chunks_of(info));
    if (H5Lexists(hdf5, "/y_soft", H5P_DEFAULT) > 0) {
      read_shares();
    } else {
      labels.resize(rows);
      read_contiguous("/y", H5T_STD_I32LE, {rows}, labels.data(), rows * sizeof(int32_t));
      for (const int32_t label : labels) {
        if (label < 0 || label >= info.classes)
          fail("a label is not one of the set's classes", where + ": y", kWriteAgain);
      }
    }
    sums.resize(chunks * kSumBytes);
    read_contiguous("/x_sha256", H5T_STD_U8LE, {chunks, kSumBytes}, sums.data(), sums.size());
  }

  size_t row_bytes() const { return static_cast<size_t>(info.shape.numel()) * size_of(info.dtype); }
  int64_t rows_in(int64_t chunk) const {
    return std::min(chunk_rows(info), info.rows - chunk * chunk_rows(info));
  }

  void read_chunk(int64_t chunk, std::vector<uint8_t>& bytes) const {
    const std::string at = where + ": rows " + std::to_string(chunk * chunk_rows(info)) + " and on";
    bytes.resize(static_cast<size_t>(rows_in(chunk)) * row_bytes());
    Hdf5Lock lock;
    const RowSelection selection(data, chunk * chunk_rows(info), rows_in(chunk), info.shape, at);
    if (H5Dread(data, element_type(info.dtype, at), selection.memory, selection.file, H5P_DEFAULT,
                bytes.data()) < 0) {
      fail(hdf5_reason(), at, kWriteAgain);
    }
  }

  void check_elements() const {
    if (info.dtype == Dtype::kU8) return;
    std::vector<uint8_t> bytes;
    const bool half = info.dtype == Dtype::kF16;
    for (int64_t chunk = 0; chunk < chunks_of(info); ++chunk) {
      read_chunk(chunk, bytes);
      const size_t n = bytes.size() / size_of(info.dtype);
      size_t bad = 0;
      if (half) {
        const auto* bits = reinterpret_cast<const uint16_t*>(bytes.data());
        for (size_t i = 0; i < n; ++i) bad += (bits[i] & 0x7c00u) == 0x7c00u;
      } else {
        const auto* bits = reinterpret_cast<const uint32_t*>(bytes.data());
        for (size_t i = 0; i < n; ++i) bad += (bits[i] & 0x7f800000u) == 0x7f800000u;
      }
      if (bad)
        fail("an element is not finite",
             where + ": rows " + std::to_string(chunk * chunk_rows(info)) + " and on", kWriteAgain);
    }
  }

  void decode(const uint8_t* from, int64_t n, float* to) const {
    if (info.dtype == Dtype::kF32) {
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    } else if (info.dtype == Dtype::kU8) {
      for (int64_t i = 0; i < n; ++i)
        to[i] = static_cast<float>(from[i]) * info.scale + info.offset;
    } else {
      for (int64_t i = 0; i < n; ++i) {
        Float16 half;
        std::memcpy(&half.bits, from + 2 * i, 2);
        to[i] = static_cast<float>(half);
      }
    }
  }

  Tensor rows(int64_t first, int64_t count) {
    if (first < 0 || count < 0 || first > info.rows - count)
      fail("rows that the set does not have were asked for", where);
    Tensor out = Tensor::empty(batched(count, info.shape));
    std::lock_guard guard(mutex);
    for (int64_t done = 0; done < count;) {
      const int64_t chunk = (first + done) / chunk_rows(info);
      if (chunk != kept_chunk) {
        kept_chunk = -1;
        read_chunk(chunk, kept);
        if (sha256(kept.data(), kept.size()) !=
            sums.substr(static_cast<size_t>(chunk) * kSumBytes, kSumBytes)) {
          fail("damaged: the SHA-256 of rows " + std::to_string(chunk * chunk_rows(info)) +
                   " and on is not the stored one",
               where, kWriteAgain);
        }
        kept_chunk = chunk;
      }
      const int64_t skip = first + done - chunk * chunk_rows(info);
      const int64_t now = std::min(count - done, rows_in(chunk) - skip);
      decode(kept.data() + static_cast<size_t>(skip) * row_bytes(), now * info.shape.numel(),
             out.data<float>() + done * info.shape.numel());
      done += now;
    }
    return out;
  }
};

DisguisedSetReader::DisguisedSetReader(const fs::path& file)
    : impl_(std::make_unique<Impl>(file)) {}
DisguisedSetReader::~DisguisedSetReader() = default;
DisguisedSetReader::DisguisedSetReader(DisguisedSetReader&&) noexcept = default;
const DisguisedSetInfo& DisguisedSetReader::info() const { return impl_->info; }
const std::string& DisguisedSetReader::file() const { return impl_->where; }
Tensor DisguisedSetReader::rows(int64_t first, int64_t count) const {
  return impl_->rows(first, count);
}
std::vector<int32_t> DisguisedSetReader::labels() const { return impl_->labels; }
Tensor DisguisedSetReader::soft_labels() const { return impl_->shares; }

}  // namespace ens
