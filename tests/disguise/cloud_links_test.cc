// SPDX-License-Identifier: Apache-2.0
// This program links the cloud's half of disguised training and nothing else: that it links shows
// that the half needs nothing of the owner's, and its symbols show that it brings nothing along.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "disguise/train/train.h"

namespace ens {
namespace {

TEST(CloudsHalf, HasNoSymbolOfTheOwners) {
  volatile auto keep = &train_disguised;
  ASSERT_NE(keep, nullptr);
  std::ifstream self("/proc/self/exe", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(self), {}};
  // Mangled, as they stand in the table of symbols; written in halves, for they must not stand
  // here.
  const auto has = [&](const std::string& name) { return bytes.find(name) != std::string::npos; };
  ASSERT_TRUE(has(std::string("train_disg") + "uisedERKNS_9RunConfig"))
      << "a program without symbols";
  EXPECT_FALSE(has(std::string("DisguiseK") + "ey"));
  EXPECT_FALSE(has(std::string("ens-disg") + "uise/1/")) << "the labels of the key's derivation";
  EXPECT_FALSE(has(std::string("rmt_tran") + "sform"));
  EXPECT_FALSE(has(std::string("FreshRand") + "omness"));
  EXPECT_FALSE(has(std::string("3ens8Sele") + "ctor"));
}

}  // namespace
}  // namespace ens
