// SPDX-License-Identifier: Apache-2.0
#include "offload/core/field.h"

#include <algorithm>

#include "base/error.h"

namespace ens {
namespace {

constexpr uint32_t kM31 = (1u << 31) - 1, kP24 = (1u << 24) - 3;

// Calls f with a function that reduces 64-bit values modulo the prime. The primes in use are
// constants there, which lets the compiler vectorise.
template <typename F>
void with_reduction(uint32_t prime, F f) {
  if (prime == kM31) {
    f([](uint64_t v) {
      v = (v & kM31) + (v >> 31);  // below 2^34
      const auto r = static_cast<uint32_t>((v & kM31) + (v >> 31));
      return r >= kM31 ? r - kM31 : r;
    });
  } else if (prime == kP24) {
    f([](uint64_t v) { return static_cast<uint32_t>(v % kP24); });
  } else {
    f([prime](uint64_t v) { return static_cast<uint32_t>(v % prime); });
  }
}

template <typename T>
void integers_to_residues(uint32_t prime, std::span<const T> integers, uint32_t* out) {
  for (const T v : integers) {
    const int64_t r = v % int64_t{prime};
    *out++ = static_cast<uint32_t>(r < 0 ? r + prime : r);
  }
}

}  // namespace

Field::Field(uint32_t prime) : prime_(prime), planes_(1) {
  if (prime < 3 || prime > kM31) usage_fail("the field's prime is outside 3 to 2^31 - 1", "field");
  int64_t range = 256, digits = 1;
  for (; range < prime; range *= 256, digits = digits * 256 + 1) ++planes_;
  largest_ = static_cast<uint32_t>(std::min<int64_t>(prime / 2, 127 * digits));
}

Field Field::named(const std::string& name) {
  if (name == "m31") return Field(kM31);
  if (name == "p24") return Field(kP24);
  usage_fail("field '" + name + "' is not known", "offload.field", "use m31 or p24");
}

uint32_t Field::inverse(uint32_t a) const {
  uint32_t result = 1;  // a^(p-2), Fermat
  for (uint32_t e = prime_ - 2; e > 0; e >>= 1) {
    if (e & 1) result = mul(result, a);
    a = mul(a, a);
  }
  return result;
}

void combine(const Field& field, std::span<const uint32_t> coefficients,
             std::span<const std::span<const uint32_t>> rows, std::span<uint32_t> out) {
  with_reduction(field.prime(), [&](auto reduce) {
    std::ranges::fill(out, 0u);
    for (size_t k = 0; k < rows.size(); ++k) {
      const uint64_t c = coefficients[k];
      const uint32_t* row = rows[k].data();
      for (size_t i = 0; i < out.size(); ++i) out[i] = reduce(c * row[i] + out[i]);
    }
  });
}

void to_planes(const Field& field, std::span<const uint32_t> residues, std::span<int8_t> planes) {
  const size_t n = residues.size();
  for (size_t i = 0; i < n; ++i) {
    const uint32_t r = residues[i];
    auto v = static_cast<int32_t>(r > field.largest_ ? r - field.prime_ : r);
    for (int l = 0; l < field.planes_; ++l) {
      const auto digit = static_cast<int8_t>(v & 0xff);
      planes[static_cast<size_t>(l) * n + i] = digit;
      v = (v - digit) >> 8;
    }
  }
}

bool from_planes(const Field& field, std::span<const int8_t> planes, std::span<uint32_t> residues) {
  const size_t n = residues.size();
  bool good = true;
  const auto largest = static_cast<int64_t>(field.largest_);
  const int64_t smallest = largest - field.prime_ + 1;
  for (size_t i = 0; i < n; ++i) {
    int64_t v = 0;
    for (int l = field.planes_ - 1; l >= 0; --l)
      v = v * 256 + planes[static_cast<size_t>(l) * n + i];
    good &= v >= smallest && v <= largest;
    residues[i] = static_cast<uint32_t>(v < 0 ? v + field.prime_ : v);
  }
  return good;
}

void reduce_products(const Field& field, std::span<const int32_t> products,
                     std::span<uint32_t> residues) {
  const size_t n = residues.size();
  // sum_l 256^l y_l lies within 2^31 * 256^3 * (1 + 1/255); with a multiple of p that exceeds it
  // the sum is positive.
  const int64_t offset = (int64_t{1} << 56) / field.prime() * field.prime() + field.prime();
  with_reduction(field.prime(), [&](auto reduce) {
    for (size_t i = 0; i < n; ++i) {
      int64_t v = 0;
      for (int l = field.planes() - 1; l >= 0; --l) {
        v = v * 256 + products[static_cast<size_t>(l) * n + i];
      }
      residues[i] = reduce(static_cast<uint64_t>(v + offset));
    }
  });
}

std::vector<uint32_t> multiply(const Field& field, const Int8Layer& layer, const Tensor& planes) {
  const Tensor y = multiply(layer, planes).to(Device{}).plain();
  std::vector<uint32_t> residues(static_cast<size_t>(y.numel() / field.planes()));
  reduce_products(field, y.span<int32_t>(), residues);
  return residues;
}

std::vector<uint32_t> to_residues(const Field& field, const Tensor& integers) {
  std::vector<uint32_t> out(static_cast<size_t>(integers.numel()));
  switch (integers.dtype()) {
    case Dtype::kI8:
      integers_to_residues<int8_t>(field.prime(), integers.span<int8_t>(), out.data());
      break;
    case Dtype::kU8:
      integers_to_residues<uint8_t>(field.prime(), integers.span<uint8_t>(), out.data());
      break;
    case Dtype::kI32:
      integers_to_residues<int32_t>(field.prime(), integers.span<int32_t>(), out.data());
      break;
    default:
      fail(std::string("a tensor of ") + name(integers.dtype()) + " has no residues", "field");
  }
  return out;
}

void to_integers(const Field& field, std::span<const uint32_t> residues, std::span<int32_t> out) {
  for (size_t i = 0; i < residues.size(); ++i) out[i] = field.centred(residues[i]);
}

}  // namespace ens
