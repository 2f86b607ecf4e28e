// SPDX-License-Identifier: Apache-2.0
// One libFuzzer program for each target: ENS_FUZZ_TARGET names it.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ens::fuzz::ENS_FUZZ_TARGET(data, size);
  return 0;
}
