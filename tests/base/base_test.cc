// SPDX-License-Identifier: Apache-2.0
// Hashes against the published test vectors (FIPS 180-4, RFC 1321), quantiles against numpy's
// values, locks against a second open of the same file, and the text helpers.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/statistics.h"
#include "base/strings.h"

namespace ens {
namespace {

TEST(Hash, Sha256OfTheStandardsExamples) {
  EXPECT_EQ(to_hex(sha256("abc", 3)),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(sha256("", 0)),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Hash, PiecesAreTheWhole) {
  Hash pieces;
  pieces.add("a", 1);
  pieces.add("bc", 2);
  EXPECT_EQ(pieces.finish(), sha256("abc", 3));
}

TEST(Hash, Md5OfTheStandardsExample) {
  Hash md5(Hash::Algorithm::kMd5);
  md5.add("message digest", 14);
  EXPECT_EQ(to_hex(md5.finish()), "f96b697d7cb7938d525a2f31aaf161d0");
}

// RFC 4231, test cases 1 and 2.
// RFC 5869, A.1 to A.3.
TEST(Hash, HkdfOfTheStandardsExamples) {
  const auto range = [](int first, int last) {
    std::vector<uint8_t> bytes;
    for (int byte = first; byte <= last; ++byte) bytes.push_back(static_cast<uint8_t>(byte));
    return bytes;
  };
  const auto hkdf = [](const std::vector<uint8_t>& key, const std::vector<uint8_t>& salt,
                       const std::vector<uint8_t>& info, size_t size) {
    const std::vector<uint8_t> out =
        hkdf_sha256(key, salt, {reinterpret_cast<const char*>(info.data()), info.size()}, size);
    return to_hex({reinterpret_cast<const char*>(out.data()), out.size()});
  };
  const std::vector<uint8_t> key(22, 0x0b);
  EXPECT_EQ(hkdf(key, range(0x00, 0x0c), range(0xf0, 0xf9), 42),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  EXPECT_EQ(hkdf(range(0x00, 0x4f), range(0x60, 0xaf), range(0xb0, 0xff), 82),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41"
            "c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87");
  EXPECT_EQ(hkdf(key, {}, {}, 42),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(Hash, HmacOfTheStandardsExamples) {
  const auto hmac = [](const std::string& key, const std::string& data) {
    const auto bytes = [](const std::string& text) {
      return std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    };
    const auto code = hmac_sha256(bytes(key), bytes(data));
    return to_hex({reinterpret_cast<const char*>(code.data()), code.size()});
  };
  EXPECT_EQ(hmac(std::string(20, '\x0b'), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hmac("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Hash, TextsEnterWithTheirLength) {
  Hash one, two;
  one.add_text("ab");
  one.add_text("c");
  two.add_text("a");
  two.add_text("bc");
  EXPECT_NE(one.finish(), two.finish());
}

// numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], [0, 5, 50, 95, 100])
TEST(Percentile, AgreesWithNumpy) {
  const std::vector<double> values = {3, 1, 4, 1, 5, 9, 2, 6};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1.0);
  EXPECT_DOUBLE_EQ(percentile(values, 0.05), 1.0);
  EXPECT_DOUBLE_EQ(percentile(values, 0.5), 3.5);
  EXPECT_DOUBLE_EQ(percentile(values, 0.95), 7.95);
  EXPECT_DOUBLE_EQ(percentile(values, 1), 9.0);
  EXPECT_DOUBLE_EQ(percentile({2.5}, 0.3), 2.5);
  EXPECT_DOUBLE_EQ(percentile({}, 0.5), 0.0);
}

TEST(Strings, NearestWord) {
  const std::vector<std::string> known = {"epochs", "batch", "step_epochs"};
  EXPECT_EQ(nearest_word("epoch", known), "epochs");
  EXPECT_EQ(nearest_word("bacth", known), "batch");
  EXPECT_EQ(nearest_word("ste", known), "step_epochs");
  EXPECT_EQ(nearest_word("temperature", known), "");
  EXPECT_EQ(nearest_word("x", {}), "");
}

TEST(Strings, SplitAndJoin) {
  EXPECT_EQ(split_text("a,,b", ','), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(split_text("", ','), std::vector<std::string>{});
  EXPECT_EQ(join({"a", "b", "c"}), "a, b, c");
  EXPECT_EQ(join({}), "");
}

class Files : public testing::Test {
 protected:
  Files() { std::filesystem::create_directories(folder_); }
  ~Files() override { std::filesystem::remove_all(folder_); }
  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("base_") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(Files, ReadsWhatWasWritten) {
  const std::string bytes("a\0b\n", 4);
  write_file_atomically(folder_ / "f", bytes, /*secret=*/false);
  EXPECT_EQ(read_file(folder_ / "f"), bytes);
  EXPECT_EQ(read_file_if_there(folder_ / "g"), std::nullopt);
  EXPECT_THROW(read_file(folder_ / "g"), Error);
  EXPECT_THROW(read_file(folder_), Error);
}

TEST_F(Files, ALockIsHeldUntilItGoesAway) {
  {
    const FileLock held = FileLock::try_once(folder_ / "LOCK");
    EXPECT_FALSE(held.taken());
    const FileLock second =
        FileLock::try_once(folder_ / "LOCK");  // flock: by open file, not process
    EXPECT_TRUE(second.taken());
    EXPECT_EQ(second.owner(), static_cast<long>(getpid()));
  }
  EXPECT_FALSE(FileLock::try_once(folder_ / "LOCK").taken());
}

}  // namespace
}  // namespace ens
