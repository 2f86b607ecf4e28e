// Small data sets on disk for the tests.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace ens::test {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

inline void write_file(const fs::path& file, const Bytes& bytes) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.flush()) << file;
}

inline void write_text(const fs::path& file, const std::string& text) {
  write_file(file, Bytes(text.begin(), text.end()));
}

inline Bytes read_all(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline Bytes gzip(const Bytes& bytes) {
  const TempDir dir;
  const gzFile out = gzopen((dir / "x.gz").c_str(), "wb");
  gzwrite(out, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(out);
  return read_all(dir / "x.gz");
}

// The pixel at `at` of record `record` in file number `file`.
inline uint8_t cifar_pixel(int file, int record, int at) {
  return static_cast<uint8_t>(file * 50 + record * 7 + at * 3);
}

// `records` records; the class of record r is (file + r) % classes.
inline Bytes cifar_batch(int file, int records, int classes, int label_bytes) {
  Bytes bytes;
  for (int r = 0; r < records; ++r) {
    if (label_bytes == 2) bytes.push_back(19);  // coarse label
    bytes.push_back(static_cast<uint8_t>((file + r) % classes));
    for (int i = 0; i < 3072; ++i) bytes.push_back(cifar_pixel(file, r, i));
  }
  return bytes;
}

inline const std::string kCifar10Names =
    "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";

inline void write_cifar10(const fs::path& folder, int records = 2) {
  for (int i = 1; i <= 5; ++i) {
    write_file(folder / ("data_batch_" + std::to_string(i) + ".bin"),
               cifar_batch(i, records, 10, 1));
  }
  write_file(folder / "test_batch.bin", cifar_batch(0, records, 10, 1));
  write_text(folder / "batches.meta.txt", kCifar10Names);
}

inline Bytes idx(const std::vector<uint32_t>& dims, const Bytes& values) {
  Bytes bytes{0, 0, 8, static_cast<uint8_t>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8)
      bytes.push_back(static_cast<uint8_t>(dim >> shift));
  }
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

// Runs `work`, which must throw an ens::Error; its kind and text.
struct Caught {
  Error::Kind kind = Error::Kind::kFailure;
  std::string text;
  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
};

template <typename Work>
Caught caught(const Work& work) {
  try {
    work();
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  ADD_FAILURE() << "no ens::Error was thrown";
  return {};
}

}  // namespace ens::test
