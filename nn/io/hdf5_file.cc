// SPDX-License-Identifier: Apache-2.0
#include "nn/io/hdf5_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/strings.h"

namespace ens {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kMagic = "ensembler checkpoint 1\n";

std::recursive_mutex& hdf5_mutex() {
  static std::recursive_mutex* mutex = new std::recursive_mutex;
  return *mutex;
}

}  // namespace

std::string user_block(size_t file_size, const std::string& sum) {
  std::string block =
      std::string(kMagic) + "bytes " + std::to_string(file_size) + "\nsha256 " + to_hex(sum) + "\n";
  block.resize(kUserBlock, '\0');
  return block;
}

void check_user_block(const fs::path& path) {
  const std::string where = path.string();
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    fail(std::string("cannot open the file: ") + std::strerror(errno), where, "check the path");
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    fail("not a file", where, "give the name of a checkpoint (.h5)");
  }

  std::string buffer(1 << 16, '\0');
  std::string block;
  Hash hash;
  size_t size = 0;
  while (true) {
    const ssize_t n = read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(std::string("cannot read the file: ") + std::strerror(errno), where);
    if (n == 0) break;
    size_t used = std::min(kUserBlock - block.size(), static_cast<size_t>(n));
    block.append(buffer, 0, used);
    hash.add(buffer.data() + used, static_cast<size_t>(n) - used);
    size += static_cast<size_t>(n);
  }
  if (!std::string_view(block).starts_with(kMagic)) {
    fail(size == 0 ? "the file is empty" : "not a checkpoint of this program", where,
         "give a file that 'ensembler' has written");
  }
  const std::string expected = user_block(size, hash.finish());
  if (block == expected) return;
  const size_t length_line = expected.find("sha256 ");
  if (block.compare(0, length_line, expected, 0, length_line) != 0) {
    fail("the file is cut off or damaged: its length is not what its first lines say", where,
         kWriteAgain);
  }
  fail("the file is damaged: its SHA-256 is not what its first lines say", where, kWriteAgain);
}

Hdf5Lock::Hdf5Lock() : lock_(hdf5_mutex()) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

std::string hdf5_reason() {
  std::string reason;
  auto take_first = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (text.empty() && error->desc) text = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &reason);
  return reason.empty() ? "HDF5 error" : "HDF5: " + reason;
}

void must(herr_t status, const std::string& where) {
  if (status < 0) fail(hdf5_reason(), where);
}

Handle::Handle(hid_t id, Close close, const std::string& where) : id_(id), close_(close) {
  if (id_ < 0) fail(hdf5_reason(), where, kWriteAgain);
}

Handle::Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Handle::~Handle() {
  if (id_ < 0) return;
  const Hdf5Lock lock;
  close_(id_);
}

Handle open_hdf5(const fs::path& file) {
  const std::string where = file.string();
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where);
  must(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), where);
  // Files are replaced by renaming, so a reader needs no lock, which some file systems lack.
  must(H5Pset_file_locking(access, /*use=*/false, /*ignore_when_disabled=*/true), where);
  return Handle(H5Fopen(file.c_str(), H5F_ACC_RDONLY, access), H5Fclose, where);
}

hid_t file_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return H5T_IEEE_F32LE;
    case Dtype::kBF16:
    case Dtype::kF16:
      return H5T_STD_U16LE;
    case Dtype::kF8:
    case Dtype::kU8:
      return H5T_STD_U8LE;
    case Dtype::kI8:
      return H5T_STD_I8LE;
    case Dtype::kI32:
      return H5T_STD_I32LE;
  }
  return -1;
}

}  // namespace ens
