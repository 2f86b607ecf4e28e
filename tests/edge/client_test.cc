// SPDX-License-Identifier: Apache-2.0
// The edge against a cloud that answers late, twice, wrongly or not at all.
#include "edge/client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "base/error.h"
#include "edge/probes.h"
#include "nn/core/rng.h"
#include "tests/edge/fake_cloud.h"

namespace ens {
namespace {

using test::FakeCloud;
using Answers = std::vector<FakeCloud::Answer>;

class ClientTest : public testing::Test {
 protected:
  ClientTest() : bundles_(test::random_bundles(5)) {
    write(bundles_, dir_.path());
    images_ = test::random_images(bundles_.edge.info.model, 5, 3);
    config_.set_bundle((dir_ / "edge.h5").string());
    config_.set_batch(2);
    config_.set_timeout_ms(10000);
  }
  EdgeClient connect(const std::string& endpoint) {
    config_.set_cloud(endpoint);
    complete(config_);
    return EdgeClient(config_);
  }
  // What classify() says to a cloud that answers by this script.
  Result<Classified> ask(FakeCloud::Script script) {
    FakeCloud cloud(bundles_.cloud.info, std::move(script));
    return connect(cloud.endpoint()).classify(images_);
  }
  std::vector<float> right_logits() {
    const auto result = ask({});
    EXPECT_TRUE(result.status.ok()) << result.status.str();
    return result.value.logits.to_vector();
  }

  test::TempDir dir_;
  test::Bundles bundles_;
  Tensor images_;
  EdgeConfig config_;
};

TEST_F(ClientTest, ClassifiesInRequestsOfItsBatch) {
  FakeCloud cloud(bundles_.cloud.info);
  EdgeClient client = connect(cloud.endpoint());
  const auto result = client.classify(images_);
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  EXPECT_EQ(cloud.infer_requests(), 3);  // 2 + 2 + 1
  ASSERT_EQ(result.value.top.size(), 5u);
  for (const auto& top : result.value.top) {
    ASSERT_EQ(top.size(), 5u);
    for (size_t i = 1; i < 5; ++i) EXPECT_LE(top[i].probability, top[i - 1].probability);
    EXPECT_EQ(top[0].label, "class " + std::to_string(top[0].index));
  }
  int64_t sent = 0;
  for (const auto& frames : cloud.received()) {
    for (const auto& frame : frames) sent += static_cast<int64_t>(frame.size());
  }
  sent -= static_cast<int64_t>(cloud.received()[0][0].size());  // the INFO request
  EXPECT_EQ(result.value.times.bytes_sent, sent);
  EXPECT_GT(result.value.times.bytes_received, 5 * 4 * 32 * 4);
  EXPECT_GT(result.value.times.total_ms, 0);
}

TEST_F(ClientTest, Float16HalvesTheBytes) {
  FakeCloud cloud(bundles_.cloud.info);
  config_.set_wire_dtype("float16");
  const auto result = connect(cloud.endpoint()).classify(images_);
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  EXPECT_EQ(cloud.received().back()[1].size(), 4u * 16 * 16 * 2);
}

TEST_F(ClientTest, ProbesCatchACloudThatRunsSomethingElse) {
  const BundleInfo& info = bundles_.cloud.info;
  Tensor features = Tensor::empty({3, 4, 16, 16}), answers = Tensor::empty({info.nets, 3, 32});
  Rng rng(1);
  rng.fill_uniform(features.span<float>(), 0, 1);
  rng.fill_uniform(answers.span<float>(), 5, 6);  // not what a fake cloud makes up
  const auto file = dir_ / "probes.h5";
  Probes(info.fingerprint, features, answers).write(file);
  EXPECT_EQ(std::filesystem::status(file).permissions(), std::filesystem::perms(0600));
  config_.set_probes(file.string());

  FakeCloud cloud(info);
  config_.set_probe_rate(1);
  const auto caught = connect(cloud.endpoint()).classify(images_);
  EXPECT_EQ(caught.status.code, StatusCode::kInternal);
  EXPECT_NE(caught.status.message.find("known probe"), std::string::npos) << caught.status.str();
  EXPECT_NE(caught.status.message.find(cloud.endpoint()), std::string::npos);
  EXPECT_EQ(cloud.infer_requests(), 4);  // 2 + 2 + 1, and the probe
  // To the cloud the probe looks like one of the others: the same size, one more id.
  std::map<size_t, int> sizes;
  for (const auto& frames : cloud.received()) {
    if (frames.size() == 2) ++sizes[frames[1].size()];
  }
  EXPECT_EQ(sizes, (std::map<size_t, int>{{2u * 4 * 16 * 16 * 4, 3}, {4u * 16 * 16 * 4, 1}}));

  config_.set_probe_rate(0);
  EXPECT_TRUE(connect(cloud.endpoint()).classify(images_).status.ok());

  test::Bundles other = test::random_bundles(6);
  write(other, dir_.path());  // probes of one training do not go with another
  EXPECT_THROW(connect(cloud.endpoint()), Error);
}

TEST_F(ClientTest, WrongImagesAreTheCallersMistake) {
  FakeCloud cloud(bundles_.cloud.info);
  EdgeClient client = connect(cloud.endpoint());
  for (const Tensor& bad :
       {Tensor::zeros({1, 3, 16, 15}), Tensor::zeros({1, 1, 16, 16}), Tensor::zeros({3, 16, 16}),
        Tensor::zeros({1, 3, 16, 16}, Dtype::kU8)}) {
    EXPECT_EQ(client.classify(bad).status.code, StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(client.classify(images_).status.ok());
}

// Such a value would be answered with confidence, and int8 would spread it over the whole feature.
TEST_F(ClientTest, ValuesThatNoImageHasAreTheCallersMistake) {
  FakeCloud cloud(bundles_.cloud.info);
  for (const char* dtype : {"float32", "float16", "int8"}) {
    config_.set_wire_dtype(dtype);
    EdgeClient client = connect(cloud.endpoint());
    for (const float odd : {std::nanf(""), -5.0f, 1e20f, INFINITY, 255.0f}) {
      Tensor images = images_.clone();
      images.data<float>()[images.numel() - 1] = odd;
      const Status status = client.classify(images).status;
      EXPECT_EQ(status.code, StatusCode::kInvalidArgument);
      EXPECT_NE(status.message.find("image " + std::to_string(images.dim(0) - 1)),
                std::string::npos)
          << status.message;
      EXPECT_EQ(client.record_probes(images, dir_ / "probes.h5").code,
                StatusCode::kInvalidArgument);
    }
    EXPECT_TRUE(client.classify(Tensor::full({1, 3, 16, 16}, 255 * (1 / 255.0f))).status.ok());
  }
}

// ---- late, repeated, lost

TEST_F(ClientTest, RepeatedAndUnknownAnswersAreIgnored) {
  const auto want = right_logits();
  FakeCloud::Answer first;
  const auto result =
      ask([&](int number, const wire::Request&, FakeCloud::Answer right) -> Answers {
        FakeCloud::Answer stranger = right, wrong = right;
        stranger.header.set_id(right.header.id() + 1000);  // to nobody
        wrong.tensor.assign(wrong.tensor.size(), '\0');    // a second answer, and a different one
        Answers answers = {stranger, right, wrong, right};
        if (number > 0) answers.insert(answers.begin(), first);  // one from before
        first = wrong;
        return answers;
      });
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  EXPECT_EQ(result.value.logits.to_vector(), want);
}

TEST_F(ClientTest, AnswersInAnotherOrderFindTheirRequests) {
  const auto want = right_logits();
  Answers held;
  const auto result =
      ask([&](int number, const wire::Request&, FakeCloud::Answer right) -> Answers {
        held.insert(held.begin(), right);
        if (number == 0)
          return {};  // the window is two: the second comes without the first's answer
        return std::exchange(held, {});
      });
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  EXPECT_EQ(result.value.logits.to_vector(), want);
}

TEST_F(ClientTest, LostAnswerIsAskedForAgain) {
  config_.set_timeout_ms(600);
  const auto want = right_logits();
  std::map<uint64_t, int> asked;
  const auto result =
      ask([&](int, const wire::Request& request, FakeCloud::Answer right) -> Answers {
        if (asked[request.id()]++ == 0) return {};
        return {right};
      });
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  EXPECT_EQ(result.value.logits.to_vector(), want);
  for (const auto& [id, count] : asked) EXPECT_EQ(count, 2);
}

TEST_F(ClientTest, BusyCloudIsAskedAgain) {
  const auto want = right_logits();
  for (StatusCode code : {StatusCode::kResourceExhausted, StatusCode::kUnavailable}) {
    int refusals = 0;
    const auto result =
        ask([&](int number, const wire::Request&, FakeCloud::Answer right) -> Answers {
          if (number % 3 != 2) {
            ++refusals;
            right.header.set_code(static_cast<uint32_t>(code));
            right.tensor.clear();
          }
          return {right};
        });
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    EXPECT_EQ(result.value.logits.to_vector(), want);
    EXPECT_GE(refusals, 3);
  }
}

TEST_F(ClientTest, AlwaysBusyCloudEndsWithItsOwnWords) {
  config_.set_timeout_ms(2000);
  const auto result = ask([](int, const wire::Request&, FakeCloud::Answer right) -> Answers {
    right.header.set_code(3);
    right.header.set_message("full up");
    right.tensor.clear();
    return {right};
  });
  EXPECT_EQ(result.status.code, StatusCode::kResourceExhausted);
  EXPECT_NE(result.status.message.find("full up"), std::string::npos);
  EXPECT_NE(result.status.message.find("tried"), std::string::npos);
}

TEST_F(ClientTest, SilentCloudEndsInTime) {
  config_.set_timeout_ms(300);
  int requests = 0;
  const auto result = ask([&](int, const wire::Request&, FakeCloud::Answer) -> Answers {
    ++requests;
    return {};
  });
  EXPECT_EQ(result.status.code, StatusCode::kDeadlineExceeded) << result.status.str();
  EXPECT_LE(requests, 4) << "two requests, each sent again at most once";
}

TEST_F(ClientTest, UnreachableCloudEndsInTimeAndSaysWhere) {
  config_.set_timeout_ms(200);
  EdgeClient client = connect("tcp://127.0.0.1:9");
  const Status status = client.check();
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_NE(status.message.find("tcp://127.0.0.1:9"), std::string::npos);
  EXPECT_NE(status.message.find("ensembler-cloud"), std::string::npos);
}

TEST_F(ClientTest, ComesBackWhenTheCloudDoes) {
  auto cloud = std::make_unique<FakeCloud>(bundles_.cloud.info);
  const std::string endpoint = cloud->endpoint();
  EdgeClient client = connect(endpoint);
  const auto want = client.classify(images_);
  ASSERT_TRUE(want.status.ok());
  cloud.reset();
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    cloud = std::make_unique<FakeCloud>(bundles_.cloud.info, FakeCloud::Script{}, endpoint);
  });
  const auto again = client.classify(images_);
  later.join();
  ASSERT_TRUE(again.status.ok()) << again.status.str();
  EXPECT_EQ(again.value.logits.to_vector(), want.value.logits.to_vector());
}

TEST_F(ClientTest, UsableAfterAFailure) {
  config_.set_timeout_ms(2000);
  std::atomic<int> calls{0};
  FakeCloud cloud(bundles_.cloud.info,
                  [&](int, const wire::Request&, FakeCloud::Answer right) -> Answers {
                    return ++calls <= 4 ? Answers{} : Answers{right};
                  });
  EdgeClient client = connect(cloud.endpoint());
  EXPECT_FALSE(client.classify(images_).status.ok());
  calls = 100;
  EXPECT_TRUE(client.classify(images_).status.ok());
}

// ---- wrong answers are refused, at once and for good

TEST_F(ClientTest, WrongAnswersAreRefused) {
  struct Case {
    const char* what;
    StatusCode code;
    const char* says;
    std::function<void(FakeCloud::Answer&)> change;
  };
  const auto set_float = [](FakeCloud::Answer& a, float value) {
    std::memcpy(a.tensor.data() + a.tensor.size() - 4, &value, 4);
  };
  const Case cases[] = {
      {"NaN", StatusCode::kInternal, "not finite", [&](auto& a) { set_float(a, std::nanf("")); }},
      {"infinity", StatusCode::kInternal, "not finite", [&](auto& a) { set_float(a, -INFINITY); }},
      {"no tensor", StatusCode::kInternal, "without a tensor", [](auto& a) { a.tensor.clear(); }},
      {"short frame", StatusCode::kInternal, "bytes", [](auto& a) { a.tensor.pop_back(); }},
      {"one net less", StatusCode::kInternal, "shape",
       [](auto& a) {
         a.header.mutable_tensor()->set_shape(0, 3);
         a.tensor.resize(a.tensor.size() / 4 * 3);
       }},
      {"other batch", StatusCode::kInternal, "shape",
       [](auto& a) {
         a.header.mutable_tensor()->set_shape(1, 1);
         a.tensor.resize(a.tensor.size() / 2);
       }},
      {"axes swapped", StatusCode::kInternal, "shape",
       [](auto& a) {
         a.header.mutable_tensor()->set_shape(0, a.header.tensor().shape(1));
         a.header.mutable_tensor()->set_shape(1, 4);
       }},
      {"a huge shape", StatusCode::kInternal, "dimension",
       [](auto& a) { a.header.mutable_tensor()->set_shape(2, int64_t{1} << 40); }},
      {"no dtype", StatusCode::kInternal, "dtype",
       [](auto& a) { a.header.mutable_tensor()->clear_dtype(); }},
      {"other fingerprint", StatusCode::kFingerprintMismatch, "other server nets",
       [](auto& a) { a.header.set_fingerprint(std::string(32, 'x')); }},
      {"no fingerprint", StatusCode::kFingerprintMismatch, "other server nets",
       [](auto& a) { a.header.clear_fingerprint(); }},
      {"other version", StatusCode::kVersionMismatch, "version 2",
       [](auto& a) { a.header.set_version(2); }},
      {"an error", StatusCode::kInvalidArgument, "no good",
       [](auto& a) {
         a.header.set_code(1);
         a.header.set_message("no good");
         a.tensor.clear();
       }},
      {"an error that we do not know", StatusCode::kInternal, "",
       [](auto& a) { a.header.set_code(4711); }},
  };
  for (const Case& c : cases) {
    int requests = 0;
    const auto result = ask([&](int, const wire::Request&, FakeCloud::Answer right) -> Answers {
      ++requests;
      c.change(right);
      return {right};
    });
    EXPECT_EQ(result.status.code, c.code) << c.what << ": " << result.status.str();
    EXPECT_NE(result.status.message.find(c.says), std::string::npos)
        << c.what << ": " << result.status.str();
    EXPECT_LE(requests, 2) << c.what << ": not asked again";
  }
}

TEST_F(ClientTest, CloudOfOtherNetsIsRefusedBeforeAnythingIsSent) {
  struct Case {
    StatusCode code;
    const char* says;
    std::function<void(wire::Reply&)> change;
  };
  const Case cases[] = {
      {StatusCode::kInternal, "serves 5 nets, not 4",
       [](auto& r) { r.mutable_info()->set_nets(5); }},
      {StatusCode::kInternal, "other shapes",
       [](auto& r) { r.mutable_info()->set_input_shape(0, 1); }},
      {StatusCode::kInternal, "other shapes",
       [](auto& r) { r.mutable_info()->add_output_shape(1); }},
      {StatusCode::kInternal, "other shapes", [](auto& r) { r.mutable_info()->set_max_batch(0); }},
      {StatusCode::kInternal, "without information", [](auto& r) { r.clear_info(); }},
      {StatusCode::kFingerprintMismatch, "edge.h5", [](auto& r) { r.set_fingerprint("?"); }},
      {StatusCode::kVersionMismatch, "version 9", [](auto& r) { r.set_version(9); }},
  };
  for (const Case& c : cases) {
    FakeCloud cloud(bundles_.cloud.info);
    cloud.on_info(c.change);
    const auto result = connect(cloud.endpoint()).classify(images_);
    EXPECT_EQ(result.status.code, c.code) << result.status.str();
    EXPECT_NE(result.status.message.find(c.says), std::string::npos) << result.status.str();
    EXPECT_EQ(cloud.infer_requests(), 0);
  }
}

TEST_F(ClientTest, SplitsToWhatTheCloudTakes) {
  FakeCloud cloud(bundles_.cloud.info);
  cloud.on_info([](wire::Reply& r) { r.mutable_info()->set_max_batch(1); });
  EXPECT_TRUE(connect(cloud.endpoint()).classify(images_).status.ok());
  EXPECT_EQ(cloud.infer_requests(), 5);
}

// ---- secrecy

// Two clients that differ in nothing but the selector (and the tail that belongs to it) send the
// same: bytes, number, sizes and order of messages.
TEST_F(ClientTest, WhatIsSentDoesNotDependOnTheSelector) {
  std::vector<std::vector<FakeCloud::Frames>> seen;
  std::vector<std::vector<float>> logits;
  for (const auto& selected : {std::vector<int>{0}, {1, 3}, {2}, {0, 1, 2, 3}}) {
    test::Bundles bundles = test::random_bundles(5, 4, selected);
    bundles.edge.head = bundles_.edge.head;
    bundles.edge.protection = bundles_.edge.protection;
    write(bundles, dir_.path());
    FakeCloud cloud(bundles.cloud.info);
    EdgeClient client = connect(cloud.endpoint());
    for (int i = 0; i < 3; ++i) {
      const auto result = client.classify(images_);
      ASSERT_TRUE(result.status.ok()) << result.status.str();
      if (i == 0) logits.push_back(result.value.logits.to_vector());
    }
    seen.push_back(cloud.received());
  }
  EXPECT_EQ(seen[0].size(), 1u + 3 * 3);
  for (size_t i = 1; i < seen.size(); ++i) {
    EXPECT_TRUE(seen[i] == seen[0]) << "the cloud can tell selector " << i << " from the first";
    EXPECT_NE(logits[i], logits[0]) << "the selectors make no difference: the test is blind";
  }
}

TEST_F(ClientTest, RefusesBadSettings) {
  const auto error_of = [&](auto change) -> std::string {
    EdgeConfig config = config_;
    config.set_cloud("tcp://127.0.0.1:5755");
    change(config);
    complete(config);
    try {
      EdgeClient client(config);
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_cloud("tcp://192.0.2.1:5755"); }), "plain text"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_cloud("http://x"); }), "http://x"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_cloud("tcp://127.0.0.1:*"); }), "127.0.0.1:*"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_bundle("/nonexistent.h5"); }), "/nonexistent.h5"));
  EXPECT_TRUE(
      has(error_of([&](auto& c) { c.set_bundle((dir_ / "cloud.h5").string()); }), "cloud.h5"));
}

}  // namespace
}  // namespace ens
