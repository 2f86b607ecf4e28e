// SPDX-License-Identifier: Apache-2.0
// Copies between all types and layouts, slices, and the allocator behind every tensor.
#include <cstring>
#include <thread>

#include "nn/cpu/allocator.h"
#include "tests/nn/cpu/naive.h"
#include "tests/nn/plan/e4m3.h"

namespace ens {
namespace {

const std::vector<Dtype> kTypes{Dtype::kF32, Dtype::kBF16, Dtype::kF16, Dtype::kF8,
                                Dtype::kU8,  Dtype::kI8,   Dtype::kI32};

// Small whole numbers with no more than four bits from the first to the last: every type holds them
// exactly.
Tensor numbers(const Shape& shape, Dtype dtype, Layout layout) {
  Tensor t = Tensor::empty(shape);
  int i = 0;
  for (float& v : t.span<float>()) {
    v = static_cast<float>(test::e4m3_value(test::e4m3_bits(i++ * 37 % 120)));
  }
  Tensor typed = Tensor::empty(shape, dtype);
  typed.copy_from(t);
  Tensor placed = Tensor::empty(shape, dtype, {}, layout);
  placed.copy_from(typed);
  return placed;
}

// Where an element lies, written out from the definition of the layouts.
int64_t position(const Shape& s, Layout layout, int64_t n, int64_t c, int64_t h, int64_t w) {
  const int64_t block = layout == Layout::kBlocked8 ? 8 : 16;
  switch (layout) {
    case Layout::kPlain:
      return at(s, n, c, h, w);
    case Layout::kChannelsLast:
      return ((n * s[2] + h) * s[3] + w) * s[1] + c;
    default:
      return (((n * (s[1] / block) + c / block) * s[2] + h) * s[3] + w) * block + c % block;
  }
}

TEST(Copy, LayoutsAreWhatTheySay) {
  const Shape s{2, 32, 3, 5};
  Tensor plain = Tensor::empty(s);
  for (int64_t i = 0; i < s.numel(); ++i) plain.data<float>()[i] = static_cast<float>(i);
  for (Dtype dtype : {Dtype::kF32, Dtype::kI32}) {
    for (Layout layout : all_layouts()) {
      Tensor t = Tensor::empty(s, dtype, {}, layout);
      t.copy_from(plain.to(dtype));
      for (int64_t n = 0; n < s[0]; ++n)
        for (int64_t c = 0; c < s[1]; ++c)
          for (int64_t h = 0; h < s[2]; ++h)
            for (int64_t w = 0; w < s[3]; ++w) {
              const int64_t p = position(s, layout, n, c, h, w);
              const float got = dtype == Dtype::kF32 ? t.data<float>()[p]
                                                     : static_cast<float>(t.data<int32_t>()[p]);
              ASSERT_EQ(got, static_cast<float>(at(s, n, c, h, w))) << name(layout);
            }
    }
  }
}

TEST(Copy, EveryTypeAndLayoutToEveryOther) {
  const Shape shape{2, 16, 3, 5};
  const Values want = values(numbers(shape, Dtype::kF32, Layout::kPlain));
  for (Dtype from : kTypes)
    for (Layout from_layout : all_layouts()) {
      const Tensor source = numbers(shape, from, from_layout);
      for (Dtype to : kTypes)
        for (Layout to_layout : all_layouts()) {
          Tensor target = Tensor::empty(shape, to, {}, to_layout);
          target.copy_from(source);
          EXPECT_EQ(values(target), want) << name(from) << " " << name(from_layout) << " to "
                                          << name(to) << " " << name(to_layout);
        }
    }
}

TEST(Copy, IntegersRoundAndSaturate) {
  const Tensor t = Tensor::from({-300.0f, -0.6f, 0.4f, 1.6f, 254.7f, 1e20f, NAN}, {7});
  EXPECT_EQ(values(t.to(Dtype::kU8)), (Values{0, 0, 0, 2, 255, 255, 0}));
  EXPECT_EQ(values(t.to(Dtype::kI8)), (Values{-128, -1, 0, 2, 127, 127, 0}));
  EXPECT_EQ(t.to(Dtype::kI32).data<int32_t>()[5], INT32_MAX);
}

TEST(Copy, BFloat16RoundsLikeTheScalarType) {
  std::vector<float> numbers{0.0f, -0.0f, 1.0f, 1.00390625f, 1.01171875f, 3.4e38f, INFINITY, NAN};
  Rng rng(1);
  for (int i = 0; i < 1000; ++i) numbers.push_back(static_cast<float>(rng.normal()));
  const Tensor b = Tensor::from(numbers, {static_cast<int64_t>(numbers.size())}).to(Dtype::kBF16);
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(b.data<BFloat16>()[i].bits, BFloat16(numbers[i]).bits) << numbers[i];
  }
}

TEST(Float8, HoldsWhatItsTableSays) {
  for (int bits = 0; bits < 256; ++bits) {
    Float8 f;
    f.bits = static_cast<uint8_t>(bits);
    const auto got = static_cast<float>(f);
    const double want = test::e4m3_value(bits);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(got, want) << bits;
    }
    EXPECT_EQ(std::signbit(got), bits >= 128) << bits;
    EXPECT_EQ(Float8(got).bits, bits);
  }
}

// Every tie, the numbers just beside it, what is too large or too small, and numbers in between.
TEST(Float8, RoundsToTheNearestOfItsTable) {
  std::vector<float> numbers{0,    448,   449,      464,      480,   1e5f,    3.4e38f, INFINITY,
                             1e-3, 1e-30, 0x1p-10f, 0x1p-149, 0.001, 0.0009f, NAN};
  for (int bits = 0; bits < 126; ++bits) {
    const auto tie = static_cast<float>((test::e4m3_value(bits) + test::e4m3_value(bits + 1)) / 2);
    numbers.insert(numbers.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)});
  }
  Rng rng(1);
  for (int i = 0; i < 3000; ++i) {
    numbers.push_back(static_cast<float>(std::ldexp(rng.normal(), i % 24 - 14)));
  }
  for (size_t i = 0, n = numbers.size(); i < n; ++i) numbers.push_back(-numbers[i]);
  const Tensor t = Tensor::from(numbers, {static_cast<int64_t>(numbers.size())}).to(Dtype::kF8);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const int want = test::e4m3_bits(numbers[i]);
    ASSERT_EQ(Float8(numbers[i]).bits, want) << numbers[i];
    ASSERT_EQ(t.data<Float8>()[i].bits, want) << numbers[i];
  }
}

TEST(Copy, FillEveryType) {
  for (Dtype dtype : kTypes) {
    Tensor t = Tensor::empty({3, 5}, dtype);
    t.fill(7.0f);
    EXPECT_EQ(values(t), Values(15, 7.0)) << name(dtype);
  }
}

Values slice_of(const Values& x, const Shape& s, int axis, int64_t start, int64_t length) {
  Values out;
  for (int64_t n = 0; n < s[0]; ++n)
    for (int64_t c = 0; c < s[1]; ++c)
      for (int64_t h = 0; h < s[2]; ++h)
        for (int64_t w = 0; w < s[3]; ++w) {
          const int64_t i = axis == 0 ? n : axis == 1 ? c : axis == 2 ? h : w;
          if (i >= start && i < start + length) {
            out.push_back(x[static_cast<size_t>(at(s, n, c, h, w))]);
          }
        }
  return out;
}

TEST(Slice, EveryAxisAndLayoutAndBack) {
  const Shape shape{4, 32, 6, 5};
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kU8}) {
    for (Layout layout : all_layouts()) {
      const Tensor x = numbers(shape, dtype, layout);
      const Values vx = values(x);
      for (int axis = 0; axis < 4; ++axis) {
        for (auto [start, length] : {std::pair{1, 2}, {0, 3}, {2, 1}, {16, 16}, {8, 8}, {3, 20}}) {
          if (start + length > shape[axis]) continue;
          const std::string what = std::string(name(dtype)) + " " + name(layout) + " axis " +
                                   std::to_string(axis) + " " + std::to_string(start) + "+" +
                                   std::to_string(length);
          const Tensor part = cpu_backend().slice(x, axis, start, length);
          const Values want = slice_of(vx, shape, axis, start, length);
          EXPECT_EQ(values(part), want) << what;
          // Placing the part into a tensor of another layout, and nothing else changes there.
          for (Layout other : all_layouts()) {
            Tensor target = Tensor::empty(shape, dtype, {}, other);
            target.fill(99.0f);
            cpu_backend().slice_update(part, target, axis, start);
            EXPECT_EQ(values(cpu_backend().slice(target, axis - 4, start, length)), want) << what;
            const Values all = values(target);
            EXPECT_EQ(static_cast<size_t>(std::count(all.begin(), all.end(), 99.0)),
                      all.size() - want.size() +
                          static_cast<size_t>(std::count(want.begin(), want.end(), 99.0)))
                << what;
          }
        }
      }
    }
  }
}

TEST(Slice, OtherRanks) {
  const Tensor x = Tensor::from({0, 1, 2, 3, 4, 5}, {2, 3});
  EXPECT_EQ(values(cpu_backend().slice(x, 1, 1, 2)), (Values{1, 2, 4, 5}));
  Tensor y = Tensor::zeros({2, 3});
  cpu_backend().slice_update(Tensor::from({7, 8}, {2, 1}), y, 1, 2);
  EXPECT_EQ(values(y), (Values{0, 0, 7, 0, 0, 8}));
}

TEST(Allocator, AlignedReusedAndBounded) {
  cpu::release_idle_memory();
  const size_t live = cpu::memory_use().live;
  for (size_t bytes : {size_t{1}, size_t{100}, size_t{257}, size_t{5000}, size_t{1} << 20,
                       (size_t{9} << 20) + 1}) {
    void* first;
    {
      const auto a = cpu::allocate(bytes);
      first = a.get();
      EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
      std::memset(first, 1, bytes);
      const size_t used = cpu::memory_use().live - live;
      EXPECT_GE(used, bytes);
      EXPECT_LE(used, std::max<size_t>(256, bytes + bytes / 4 + 64));
    }
    EXPECT_EQ(cpu::memory_use().live, live);
    if (cpu::memory_use().idle > 0) {  // nothing is kept under address sanitizer
      EXPECT_EQ(cpu::allocate(bytes).get(), first);
    }
  }
  cpu::release_idle_memory();
  EXPECT_EQ(cpu::memory_use().idle, 0u);
}

TEST(Allocator, ImpossibleSizeIsAnError) {
  EXPECT_ANY_THROW(cpu::allocate(size_t{1} << 60));
  const auto after = cpu::allocate(1000);
  EXPECT_NE(after, nullptr);
}

TEST(Allocator, ManyThreadsNeverShareABuffer) {
  const size_t live = cpu::memory_use().live;
  std::vector<std::thread> threads;
  std::vector<int> errors(4);
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&errors, t] {
      Rng rng(t);
      std::vector<std::pair<std::shared_ptr<void>, size_t>> held;
      for (int i = 0; i < 3000; ++i) {
        const size_t bytes = 1 + rng.below(4000);
        auto buffer = cpu::allocate(bytes);
        std::memset(buffer.get(), static_cast<int>(t), bytes);
        held.emplace_back(std::move(buffer), bytes);
        if (held.size() < 20) continue;
        const size_t victim = rng.below(held.size());
        const auto* p = static_cast<unsigned char*>(held[victim].first.get());
        for (size_t k = 0; k < held[victim].second; ++k) errors[t] += p[k] != t;
        held.erase(held.begin() + static_cast<int64_t>(victim));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(errors, std::vector<int>(4));
  EXPECT_EQ(cpu::memory_use().live, live);
}

}  // namespace
}  // namespace ens
