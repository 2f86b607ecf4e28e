// SPDX-License-Identifier: Apache-2.0
// What a worker replies to bytes of anybody.
#include "offload/worker/jobs.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <random>

#include "offload/core/seed.h"
#include "offload/wire/messages.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

class JobsTest : public testing::Test {
 protected:
  JobsTest() {
    for (int8_t& v : layer_.weight.span<int8_t>())
      v = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
  }

  static std::span<const std::byte> bytes(const std::string& text) {
    return std::as_bytes(std::span(text));
  }
  JobReply ask(const offload::Request& request, const std::string& frame = "", int frames = 0) {
    return jobs_.reply(bytes(request.SerializeAsString()), bytes(frame),
                       frames > 0      ? frames
                       : frame.empty() ? 1
                                       : 2);
  }
  StatusCode code(const offload::Request& request, const std::string& frame = "", int frames = 0) {
    const JobReply reply = ask(request, frame, frames);
    EXPECT_EQ(reply.header.id(), request.id());
    EXPECT_EQ(reply.header.version(), kOffloadVersion);
    EXPECT_FALSE(reply.tensor.defined() && reply.header.code() != 0);
    return static_cast<StatusCode>(reply.header.code());
  }
  static offload::Request request(offload::Request::Kind kind) {
    offload::Request r;
    r.set_version(kOffloadVersion);
    r.set_id(77);
    r.set_kind(kind);
    return r;
  }
  std::string weights() const {
    return {static_cast<const char*>(layer_.weight.host()), layer_.weight.bytes()};
  }
  offload::Request load() const {
    auto r = request(offload::Request::LOAD);
    *r.mutable_layer() = describe(layer_);
    return r;
  }
  offload::Request job() const {
    auto r = request(offload::Request::JOB);
    r.mutable_job()->add_layer(describe(layer_).hash());
    r.mutable_job()->set_field(offload::M31);
    for (const int64_t size : {4, 2, 3, 5, 5}) r.mutable_job()->add_shape(size);
    return r;
  }
  static std::string share() { return std::string(4 * 2 * 75, '\x11'); }

  std::mt19937 random_{3};
  Int8Layer layer_{Tensor::empty({6, 3, 3, 3}, Dtype::kI8), {.stride = 2, .padding = 1}};
  Jobs jobs_{Device{}, 1000, {}};
};

TEST_F(JobsTest, LoadsOnceAndComputesTheProductsOfPlanes) {
  EXPECT_EQ(code(load()), StatusCode::kFingerprintMismatch);
  EXPECT_EQ(code(job(), share()), StatusCode::kFingerprintMismatch);
  EXPECT_EQ(code(load(), weights()), StatusCode::kOk);
  EXPECT_EQ(code(load()), StatusCode::kOk);
  auto r = job();
  r.mutable_job()->set_session("session");
  r.mutable_job()->set_step(5);
  r.mutable_job()->set_share(1);
  const JobReply reply = ask(r, share());
  ASSERT_EQ(reply.header.code(), 0u) << reply.header.message();
  EXPECT_EQ(reply.header.session(), "session");
  EXPECT_EQ(reply.header.step(), 5u);
  EXPECT_EQ(reply.header.share(), 1u);
  ASSERT_EQ(reply.tensor.shape(), Shape({4 * 2 * 6 * 3 * 3}));
  // The middle of the map: the sum of all weights of the channel times the share's element.
  const Field field = Field::named("m31");
  std::vector<uint32_t> y(2 * 6 * 9);
  ASSERT_TRUE(from_planes(field, reply.tensor.span<int8_t>(), y));
  for (int o = 0; o < 6; ++o) {
    int64_t sum = 0;
    for (const int8_t w : layer_.weight.span<int8_t>().subspan(static_cast<size_t>(o * 27), 27))
      sum += w;
    EXPECT_EQ(y[static_cast<size_t>(o * 9 + 4)], field.of(sum * 0x11111111));
  }
}

TEST_F(JobsTest, ASeedStandsForItsShare) {
  ASSERT_EQ(code(load(), weights()), StatusCode::kOk);
  const Field field = Field::named("m31");
  Seed seed{};
  seed[3] = 9;
  std::vector<uint32_t> elements(150);
  expand_seed(seed, field, elements);
  std::string frame(600, '\0');
  to_planes(field, elements, {reinterpret_cast<int8_t*>(frame.data()), frame.size()});
  auto seeded = job();
  seeded.mutable_job()->set_seed(seed.data(), seed.size());
  const JobReply a = ask(job(), frame), b = ask(seeded);
  ASSERT_TRUE(a.tensor.defined() && b.tensor.defined()) << b.header.message();
  EXPECT_TRUE(std::ranges::equal(a.tensor.span<int8_t>(), b.tensor.span<int8_t>()));
}

TEST_F(JobsTest, SharesOfRealsAreComputedInFloat32AndRefusedUnlessFinite) {
  ASSERT_EQ(code(load(), weights()), StatusCode::kOk);
  offload::Request r = job();
  r.mutable_job()->set_field(offload::REALS);
  r.mutable_job()->set_shape(0, 1);
  std::vector<float> x(2 * 75, 0.5f);
  const auto frame = [&] {
    return std::string(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float));
  };
  const JobReply reply = ask(r, frame());
  ASSERT_EQ(reply.header.code(), 0u) << reply.header.message();
  ASSERT_EQ(reply.tensor.dtype(), Dtype::kF32);
  int sum = 0;
  for (const int8_t w : layer_.weight.span<int8_t>().subspan(27, 27)) sum += w;
  EXPECT_EQ(reply.tensor.span<float>()[9 + 4], 0.5f * static_cast<float>(sum));
  EXPECT_EQ(code(r, frame().substr(4)), StatusCode::kInvalidArgument);
  for (const float bad : {std::nanf(""), -INFINITY}) {
    x[70] = bad;
    EXPECT_EQ(code(r, frame()), StatusCode::kInvalidArgument);
  }
  x[70] = 1;
  r.mutable_job()->set_seed(std::string(32, 'a'));
  EXPECT_EQ(code(r), StatusCode::kInvalidArgument);
}

TEST_F(JobsTest, RefusesWhatIsWrongWithoutComputing) {
  ASSERT_EQ(code(load(), weights()), StatusCode::kOk);
  const auto bad = StatusCode::kInvalidArgument;
  using Change = std::function<void(offload::Request&)>;
  const auto changed = [&](const Change& change) {
    auto r = job();
    change(r);
    return r;
  };
  const auto shape = [](std::vector<int64_t> sizes) {
    return [sizes](offload::Request& r) {
      r.mutable_job()->clear_shape();
      for (const int64_t size : sizes) r.mutable_job()->add_shape(size);
    };
  };
  for (const auto& sizes :
       std::vector<std::vector<int64_t>>{{},
                                         {4, 2, 3, 5},
                                         {3, 2, 3, 5, 5},
                                         {4, 0, 3, 5, 5},
                                         {4, -1, 3, 5, 5},
                                         {4, 2, 4, 5, 5},
                                         {4, int64_t{1} << 62, 3, 5, 5},
                                         {4, int64_t{1} << 40, int64_t{1} << 40, 5, 5},
                                         {4, 2, 150},
                                         {4, 2, 3, 5, 6}}) {
    EXPECT_EQ(code(changed(shape(sizes)), share()), bad) << sizes.size();
  }
  // A seed of a share that no memory holds.
  EXPECT_EQ(code(changed([&](auto& r) {
              shape({4, int64_t{1} << 30, 3, 5, 5})(r);
              r.mutable_job()->set_seed(std::string(32, 's'));
            })),
            bad);
  EXPECT_EQ(code(changed([](auto& r) { r.mutable_job()->set_seed("short"); })), bad);
  EXPECT_EQ(
      code(changed([](auto& r) { r.mutable_job()->set_seed(std::string(32, 's')); }), share()),
      bad);
  EXPECT_EQ(code(changed([](auto& r) { r.mutable_job()->clear_layer(); }), share()), bad);
  EXPECT_EQ(code(changed([](auto& r) {
                   for (int i = 0; i < 100; ++i) r.mutable_job()->add_layer(r.job().layer(0));
                 }),
                 share()),
            bad);
  EXPECT_EQ(
      code(changed([](auto& r) { r.mutable_job()->set_field(static_cast<offload::Field>(9)); }),
           share()),
      bad);
  EXPECT_EQ(code(job()), bad);                 // no frame
  EXPECT_EQ(code(job(), share() + "x"), bad);  // too long
  EXPECT_EQ(code(job(), share(), 3), bad);     // a third frame
  EXPECT_EQ(
      code(changed([](auto& r) { r.set_kind(static_cast<offload::Request::Kind>(8)); }), share()),
      bad);
  EXPECT_EQ(code(changed([](auto& r) { r.set_version(2); }), share()),
            StatusCode::kVersionMismatch);
  EXPECT_EQ(
      code(changed([](auto& r) { *r.mutable_job()->mutable_layer(0) = std::string(32, 'h'); }),
           share()),
      StatusCode::kFingerprintMismatch);
  EXPECT_EQ(code(job(), share()), StatusCode::kOk);
}

TEST_F(JobsTest, RefusesWeightsThatAreNotTheirHash) {
  const auto bad = StatusCode::kInvalidArgument;
  std::string other = weights();
  other[0] ^= 1;
  EXPECT_EQ(code(load(), other), bad);
  EXPECT_EQ(code(load(), weights() + "x"), bad);
  const auto changed = [&](const std::function<void(offload::Layer&)>& change) {
    auto r = load();
    change(*r.mutable_layer());
    return r;
  };
  EXPECT_EQ(code(changed([](auto& l) { l.set_stride(1); }), weights()), bad);  // part of the hash
  EXPECT_EQ(code(changed([](auto& l) { l.set_stride(0); }), weights()), bad);
  EXPECT_EQ(code(changed([](auto& l) { l.set_groups(4); }), weights()), bad);
  EXPECT_EQ(code(changed([](auto& l) { l.set_padding(4000000000); }), weights()), bad);
  EXPECT_EQ(code(changed([](auto& l) { l.set_shape(0, int64_t{1} << 60); }), weights()), bad);
  EXPECT_EQ(code(changed([](auto& l) { l.clear_shape(); }), weights()), bad);
  EXPECT_EQ(code(changed([](auto& l) { l.set_hash("x"); }), weights()), bad);
  // More weights than are kept.
  Int8Layer large{Tensor::zeros({40, 40}, Dtype::kI8), {}};
  auto r = request(offload::Request::LOAD);
  *r.mutable_layer() = describe(large);
  EXPECT_EQ(code(r, std::string(1600, '\0')), StatusCode::kResourceExhausted);
}

// A share of a few bytes whose padded planes would take gigabytes.
TEST_F(JobsTest, RefusesPaddingThatTakesFarMoreMemoryThanItsShare) {
  const auto bad = StatusCode::kInvalidArgument;
  const auto load_of = [&](const Int8Layer& layer) {
    auto r = request(offload::Request::LOAD);
    *r.mutable_layer() = describe(layer);
    return code(r, {static_cast<const char*>(layer.weight.host()), layer.weight.bytes()});
  };
  EXPECT_EQ(
      load_of({Tensor::full({1, 1, 1, 1}, 1, Dtype::kI8), {.stride = 32767, .padding = 32767}}),
      bad);
  // What the kernel covers, with a dilation that no map has.
  const Int8Layer wide{Tensor::full({1, 1, 2, 2}, 1, Dtype::kI8),
                       {.stride = 32767, .padding = 32767, .dilation = 32767}};
  ASSERT_EQ(load_of(wide), StatusCode::kOk);
  auto r = request(offload::Request::JOB);
  r.mutable_job()->add_layer(describe(wide).hash());
  r.mutable_job()->set_field(offload::M31);
  r.mutable_job()->set_seed(std::string(32, 's'));
  for (const int64_t size : {4, 1, 1, 1, 1}) r.mutable_job()->add_shape(size);
  EXPECT_EQ(code(r), bad);
  // Padding of its size is taken.
  const Int8Layer full{Tensor::full({1, 1, 3, 3}, 1, Dtype::kI8), {.padding = 4, .dilation = 2}};
  ASSERT_EQ(load_of(full), StatusCode::kOk);
  *r.mutable_job()->mutable_layer(0) = describe(full).hash();
  EXPECT_EQ(code(r), StatusCode::kOk);
}

// A few bytes that would keep a worker busy for minutes: one layer, named many times.
TEST_F(JobsTest, RefusesMoreMultiplicationsThanAWorkerOwesOneJob) {
  Jobs jobs(Device{}, 1 << 20, {});
  const Int8Layer layer{Tensor::full({32, 4096}, 1, Dtype::kI8), {}};
  auto r = request(offload::Request::LOAD);
  *r.mutable_layer() = describe(layer);
  const std::string w(static_cast<const char*>(layer.weight.host()), layer.weight.bytes());
  ASSERT_EQ(jobs.reply(bytes(r.SerializeAsString()), bytes(w), 2).header.code(), 0u);
  const auto reply_to = [&](int layers, int64_t groups) {
    auto r = request(offload::Request::JOB);
    r.mutable_job()->set_field(offload::M31);
    r.mutable_job()->set_seed(std::string(32, 's'));
    for (const int64_t size : {int64_t{4}, groups, int64_t{4096}}) r.mutable_job()->add_shape(size);
    for (int i = 0; i < layers; ++i) r.mutable_job()->add_layer(describe(layer).hash());
    return jobs.reply(bytes(r.SerializeAsString()), {}, 1).header;
  };
  EXPECT_EQ(reply_to(2, 8).code(), 0u);
  const auto start = std::chrono::steady_clock::now();
  const auto refused = reply_to(64, 1 << 14);
  EXPECT_EQ(refused.code(), static_cast<uint32_t>(StatusCode::kInvalidArgument));
  EXPECT_NE(refused.message().find("512 billion multiplications, at most 256"), std::string::npos)
      << refused.message();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));
}

// Shares recorded before are kept, also where some of them were taken away.
TEST_F(JobsTest, RecordingContinuesAfterTheLargestNumber) {
  const test::TempDir dir;
  const auto record = [&] {
    Jobs jobs(Device{}, 1000, dir.path());
    for (const auto& [r, frame] : {std::pair{load(), weights()}, {job(), share()}}) {
      const std::string header = r.SerializeAsString();
      ASSERT_EQ(jobs.reply(bytes(header), bytes(frame), 2).header.code(), 0u);
    }
  };
  for (int i = 0; i < 3; ++i) record();
  std::filesystem::remove(dir / "00000001.h5");
  const auto third = std::filesystem::last_write_time(dir / "00000003.h5");
  record();
  EXPECT_TRUE(std::filesystem::exists(dir / "00000004.h5"));
  EXPECT_EQ(std::filesystem::last_write_time(dir / "00000003.h5"), third);
}

TEST_F(JobsTest, RepliesToRandomBytes) {
  ASSERT_EQ(code(load(), weights()), StatusCode::kOk);
  const std::string good = job().SerializeAsString();
  for (int i = 0; i < 20000; ++i) {
    std::string header = i % 2 ? good : std::string(random_() % 200, '\0');
    for (char& c : header) {
      if (i % 2 == 0 || random_() % 20 == 0) c = static_cast<char>(random_());
    }
    const JobReply reply = jobs_.reply(bytes(header), bytes(share()), 2);
    EXPECT_EQ(reply.header.version(), kOffloadVersion);
  }
}

}  // namespace
}  // namespace ens
