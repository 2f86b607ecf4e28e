// SPDX-License-Identifier: Apache-2.0
#include "nn/io/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

// A file as others write it: the header as it is given, and the elements.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

template <typename T>
std::string bytes_of(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T)};
}

std::vector<float> values(const std::map<std::string, Tensor>& tensors, const std::string& name) {
  return tensors.at(name).to_vector();
}

TEST(Safetensors, ReadsWhatOthersWrite) {
  const std::string header = R"({"b":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},)"
                             R"("__metadata__":{"format":"pt","a":"b"},)"
                             R"("a.weight":{"data_offsets":[0,8],"shape":[4],"dtype":"BF16"},)"
                             R"("scalar":{"dtype":"I64","shape":[],"data_offsets":[24,32]},)"
                             R"("none":{"dtype":"F32","shape":[3,0],"data_offsets":[32,32]},)"
                             R"("half":{"dtype":"F16","shape":[1],"data_offsets":[32,34]},)"
                             R"("double":{"dtype":"F64","shape":[1],"data_offsets":[34,42]},)"
                             R"("bytes":{"dtype":"U8","shape":[2],"data_offsets":[42,44]}}   )";
  const std::string data = bytes_of<uint16_t>({0x3f80, 0xc000, 0, 0x4120}) +
                           bytes_of<float>({1.5f, -2, 3, 4e30f}) + bytes_of<int64_t>({-7}) +
                           bytes_of<uint16_t>({0x3c00}) + bytes_of<double>({0.1}) +
                           bytes_of<uint8_t>({0, 255});
  const auto tensors = parse_safetensors(file_of(header, data), "test");
  EXPECT_EQ(tensors.size(), 7u);
  EXPECT_EQ(values(tensors, "a.weight"), (std::vector<float>{1, -2, 0, 10}));
  EXPECT_EQ(tensors.at("a.weight").dtype(), Dtype::kBF16);
  EXPECT_EQ(tensors.at("b").shape(), (Shape{2, 2}));
  EXPECT_EQ(values(tensors, "b"), (std::vector<float>{1.5f, -2, 3, 4e30f}));
  EXPECT_EQ(tensors.at("scalar").rank(), 0);
  EXPECT_EQ(tensors.at("scalar").item(), -7);
  EXPECT_EQ(tensors.at("none").shape(), (Shape{3, 0}));
  EXPECT_EQ(values(tensors, "half"), (std::vector<float>{1}));
  EXPECT_EQ(values(tensors, "double"), (std::vector<float>{0.1f}));
  EXPECT_EQ(values(tensors, "bytes"), (std::vector<float>{0, 255}));
  EXPECT_TRUE(parse_safetensors(file_of("{}", ""), "test").empty());
}

TEST(Safetensors, RoundTrips) {
  const test::TempDir dir;
  std::map<std::string, Tensor> tensors;
  tensors["fc.weight"] = Tensor::from({1, 2, 3, 4, 5, 6}, {2, 3});
  tensors["a \"quoted\" name"] = Tensor::from({-0.0f}, {1});
  tensors["scalar"] = Tensor::full({}, 5);
  tensors["integers"] = Tensor::full({2}, 3, Dtype::kI32);
  for (const bool secret : {false, true}) {
    const auto file = dir / "net.safetensors";
    write_safetensors(file, tensors, secret);
    struct stat info {};
    ASSERT_EQ(::stat(file.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, secret ? 0600u : 0644u);
    const auto read = read_safetensors(file);
    ASSERT_EQ(read.size(), tensors.size());
    for (const auto& [name, tensor] : tensors) {
      EXPECT_EQ(read.at(name).shape(), tensor.shape()) << name;
      EXPECT_EQ(read.at(name).dtype(), Dtype::kF32) << name;
      EXPECT_EQ(values(read, name), tensor.to_vector()) << name;
    }
    uint64_t header = 0;
    std::memcpy(&header, read_file(file).data(), 8);
    EXPECT_EQ(header % 8, 0u);  // so that elements are aligned
  }
}

void expect_refused(const std::string& bytes, const std::string& part) {
  try {
    parse_safetensors(bytes, "bad.safetensors");
    ADD_FAILURE() << "accepted; expected '" << part << "'";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_NE(what.find("bad.safetensors"), std::string::npos) << what;
    EXPECT_NE(what.find(part), std::string::npos) << what;
    EXPECT_LT(what.size(), 500u) << what;
  }
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

TEST(Safetensors, HostileFilesAreRefusedInOneLine) {
  const std::string eight(8, '\0');
  const auto with = [&](const std::string& entries, const std::string& data) {
    return file_of("{" + entries + "}", data);
  };
  // No header, or one that is longer than the file or than any may be.
  for (const std::string& bytes :
       {std::string(), std::string("x"), std::string(8, '\0'), std::string(8, '\xff'),
        std::string("PK\3\4 a zip of pickles"), file_of("{}", "").substr(0, 9)}) {
    expect_refused(bytes, "no safetensors header");
  }
  expect_refused(file_of("not JSON", ""), "not JSON");
  expect_refused(file_of("{\"a\":", ""), "not JSON");
  expect_refused(file_of("[]", ""), "list");
  expect_refused(file_of(std::string(200000, '['), ""), "list");
  expect_refused(file_of(R"({"a":{"b":{"c":{}}}})", ""), "object");
  expect_refused(file_of(R"({"a":{}})", ""), "missing");
  expect_refused(file_of(R"({"a":3})", ""), "number");
  expect_refused(file_of(R"({"a":"b"})", ""), "text");
  expect_refused(file_of(R"({"a":null})", ""), "null");
  expect_refused(with(R"("a":{"dtype":"F32","shape":[1]})", eight), "missing");
  expect_refused(with(R"("a":{"dtype":"F32","data_offsets":[0,4]})", eight), "missing");
  expect_refused(with(entry("a", "F32", "[2.0]", "[0,8]"), eight), "whole");
  expect_refused(with(entry("a", "F32", "[-2]", "[0,8]"), eight), "negative");
  expect_refused(with(entry("a", "F32", "[[2]]", "[0,8]"), eight), "list");
  expect_refused(with(entry("a", "F32", "[2]", "[0,8,8]"), eight), "missing");
  expect_refused(with(entry("a", "F32", "[1,1,1,1,1,1,2]", "[0,8]"), eight), "dimensions");
  expect_refused(with(entry("a", "F32", "[99999999999999999999999]", "[0,8]"), eight), "whole");
  expect_refused(with(entry("a", "F4", "[2]", "[0,8]"), eight), "dtype F4");
  // Places: beyond the end, before the start, with holes, over each other, of another size.
  expect_refused(with(entry("a", "F32", "[3]", "[0,12]"), eight), "do not lie");
  expect_refused(with(entry("a", "F32", "[1099511627776]", "[0,8]"), eight),
                 "larger than the file");
  expect_refused(with(entry("a", "F32", "[0,4294967296,4294967296]", "[0,0]"), eight), "larger");
  expect_refused(with(entry("a", "F32", "[60,60,60,60,60,60]", "[0,8]"), eight), "larger");
  expect_refused(with(entry("a", "F32", "[1]", "[4,8]"), eight), "do not lie");
  expect_refused(with(entry("a", "F32", "[1]", "[0,4]"), eight), "behind the last");
  expect_refused(with(entry("a", "F32", "[1]", "[0,8]"), eight), "do not lie");
  expect_refused(with(entry("a", "F32", "[2]", "[8,0]"), eight), "do not lie");
  expect_refused(
      with(entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[1]", "[4,8]"), eight),
      "'b'");
  expect_refused(
      with(entry("a", "F32", "[1]", "[0,4]") + "," + entry("a", "F32", "[1]", "[4,8]"), eight),
      "twice");
  expect_refused(with(entry("a", "F32", "[0]", "[18446744073709551615,18446744073709551615]"), ""),
                 "do not lie");
  // Names and values that would harm the message or the numbers.
  expect_refused(with(entry("a\\nb\\u0007" + std::string(5000, 'x'), "F4", "[2]", "[0,8]"), eight),
                 "a?b?");
  expect_refused(with(entry("a", "I64", "[1]", "[0,8]"), bytes_of<int64_t>({int64_t{1} << 40})),
                 "32 bits");
}

}  // namespace
}  // namespace ens
