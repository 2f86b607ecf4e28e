// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers on a GPU.
#include "tests/nn/cuda/gpu.h"
#include "tests/nn/int8_products.h"

namespace ens::test {
namespace {

using GpuInt8Product = OnGpu<testing::Test>;

TEST_F(GpuInt8Product, ConvolutionsAreExact) { check_int8_convolutions(kGpu); }
TEST_F(GpuInt8Product, MatrixProductsAreExact) { check_int8_matrix_products(kGpu); }
TEST_F(GpuInt8Product, ExtremesDoNotWrapAround) { check_int8_extremes(kGpu); }
TEST_F(GpuInt8Product, RefusesWhatMayLeaveInt32) { check_int8_refusals(kGpu); }

}  // namespace
}  // namespace ens::test
