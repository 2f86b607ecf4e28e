// SPDX-License-Identifier: Apache-2.0
#include "proto/results.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "proto/results.pb.h"
#include "tests/support/temp_dir.h"

namespace ens::results {
namespace {

class ResultsTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  const std::filesystem::path file_ = temp_ / "x.json";
  void spill(const std::string& text) { std::ofstream(file_, std::ios::binary) << text; }
  // Why the file is refused; empty if it is not.
  std::string refused(google::protobuf::Message& message) {
    try {
      read(file_, message);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
};

TEST_F(ResultsTest, NumbersSurviveAndArePlain) {
  RunSummary summary;
  summary.set_accuracy(0.1 + 0.2);
  summary.set_sigma(0);
  summary.set_nets(4);
  summary.mutable_flops()->set_cloud(123456789012345678.0);
  summary.add_net_accuracy(std::numeric_limits<double>::denorm_min());
  (*summary.mutable_seconds())["stage1"] = 1e-7;
  write(file_, summary);
  const auto json = nlohmann::json::parse(std::ifstream(file_));
  for (const char* key : {"accuracy", "sigma", "nets"}) EXPECT_TRUE(json.at(key).is_number());
  EXPECT_TRUE(json.at("flops").at("cloud").is_number());
  EXPECT_EQ(json.at("accuracy"), 0.1 + 0.2);
  EXPECT_EQ(json.at("net_accuracy").size(), 1u);  // the name as in the schema
  EXPECT_FALSE(json.contains("similarity"));
  RunSummary back;
  read(file_, back);
  summary.set_format(1);
  EXPECT_EQ(back.SerializeAsString(), summary.SerializeAsString());
}

// Strings instead of numbers are what Protobuf's JSON makes of 64-bit integers.
TEST_F(ResultsTest, TheSchemaHasNo64BitIntegers) {
  const auto* schema = RunSummary::descriptor()->file();
  std::vector<const google::protobuf::Descriptor*> todo;
  for (int i = 0; i < schema->message_type_count(); ++i) todo.push_back(schema->message_type(i));
  int fields = 0;
  while (!todo.empty()) {
    const google::protobuf::Descriptor* type = todo.back();
    todo.pop_back();
    for (int i = 0; i < type->nested_type_count(); ++i) todo.push_back(type->nested_type(i));
    for (int i = 0; i < type->field_count(); ++i, ++fields) {
      EXPECT_NE(type->field(i)->cpp_type(), google::protobuf::FieldDescriptor::CPPTYPE_INT64);
      EXPECT_NE(type->field(i)->cpp_type(), google::protobuf::FieldDescriptor::CPPTYPE_UINT64);
    }
  }
  EXPECT_GT(fields, 80);
}

TEST_F(ResultsTest, WhatIsNotKnownIsLeftOut) {
  AttackResult result;
  result.add_parts()->set_merit(std::nan(""));
  result.mutable_ssim()->set_mean(INFINITY);
  result.set_title("caf\xff");
  write(file_, result);
  const auto json = nlohmann::json::parse(std::ifstream(file_));
  EXPECT_FALSE(json.at("parts").at(0).contains("merit"));
  EXPECT_FALSE(json.at("ssim").contains("mean"));
  EXPECT_EQ(json.at("title"), "caf\uFFFD");
  spill(
      R"({"own": null, "parts": [{"x": null, "merit": 2}], "ssim": {"mean": "NaN"}, "new": [1]})");
  read(file_, result);
  EXPECT_FALSE(result.has_own());
  EXPECT_FALSE(result.parts(0).has_x());
  EXPECT_EQ(result.parts(0).merit(), 2);
  EXPECT_FALSE(number(result, "ssim.mean"));
  EXPECT_FALSE(result.has_title());  // nothing of what was there before
}

TEST_F(ResultsTest, DamageIsNamed) {
  AttackResult result;
  const std::string name = file_.string();
  EXPECT_NE(refused(result).find(name), std::string::npos);
  for (const char* text : {"", "{\"attack\": \"rm", "{} {}", "not"}) {
    spill(text);
    EXPECT_NE(refused(result).find(name), std::string::npos) << text;
    EXPECT_FALSE(read_if_intact(file_, result));
  }
  spill("[1]");
  EXPECT_EQ(refused(result), name + " does not hold a JSON object");
  spill(R"({"attack": "a", "ssim": {"mean": "high"}})");
  EXPECT_NE(refused(result).find(name + " is damaged: (ssim.mean)"), std::string::npos);
  EXPECT_FALSE(result.has_attack());  // not half of it
}

TEST_F(ResultsTest, AFileOfANewerVersionIsNamedAndLeftAlone) {
  AttackResult result;
  write(file_, result);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(file_)).at("format"), 1);
  read(file_, result);
  // Its fields may have other types by then.
  for (const char* text : {R"({"format": 2, "attack": "a"})",
                           R"({"ssim": [1, 2], "format": 3000000000})", R"({"format": 1.5})"}) {
    spill(text);
    result.set_title("before");
    EXPECT_THROW(read(file_, result), NewerFormat) << text;
    EXPECT_THROW(read_if_intact(file_, result), NewerFormat) << text;
    EXPECT_FALSE(result.has_attack() || result.has_title());
    EXPECT_NE(refused(result).find(file_.string() + " was written by a newer version"),
              std::string::npos);
  }
  spill(R"({"format": 1, "attack": "a", "added later": {"x": [null]}})");
  EXPECT_EQ(refused(result), "");
  EXPECT_EQ(result.attack(), "a");
}

TEST_F(ResultsTest, NumbersByPath) {
  ServingSummary serving;
  serving.mutable_latency_ms()->mutable_head()->set_p50(0);
  serving.set_images(3);
  EXPECT_EQ(number(serving, "latency_ms.head.p50"), 0);
  EXPECT_FALSE(number(serving, "latency_ms.tail.p50"));
  EXPECT_EQ(number(serving, "images"), 3);
  for (const char* wrong : {"image", "latency_ms", "images.p50", "curve"}) {
    serving.set_curve(true);
    EXPECT_THROW(number(serving, wrong), Error) << wrong;
  }
}

}  // namespace
}  // namespace ens::results
