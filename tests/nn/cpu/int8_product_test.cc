// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers on the CPU. ctest runs this program once more for every
// instruction set (ONEDNN_MAX_CPU_ISA), with and without instructions that multiply bytes.
#include "base/threads.h"
#include "tests/nn/int8_products.h"

namespace ens::test {
namespace {

TEST(Int8Product, ConvolutionsAreExact) { check_int8_convolutions({}); }
TEST(Int8Product, MatrixProductsAreExact) { check_int8_matrix_products({}); }
TEST(Int8Product, ExtremesDoNotSaturate) { check_int8_extremes({}); }
TEST(Int8Product, RefusesWhatMayLeaveInt32) { check_int8_refusals({}); }

TEST(Int8Product, AnyNumberOfThreads) {
  const int before = compute_threads();
  for (const int threads : {1, 3, 16}) {
    set_compute_threads(threads);
    check_int8_convolutions({});
  }
  set_compute_threads(before);
}

}  // namespace
}  // namespace ens::test
