// SPDX-License-Identifier: Apache-2.0
#include "base/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace ens {
namespace {

TEST(Memory, WhatIsAvailableIsAPartOfTheMachines) {
  const double all = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
                     static_cast<double>(::sysconf(_SC_PAGE_SIZE));
  EXPECT_GT(available_memory(), 1e6);
  EXPECT_LE(available_memory(), all);
}

}  // namespace
}  // namespace ens
