// SPDX-License-Identifier: Apache-2.0
#include "proto/config.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <set>

#include "base/error.h"
#include "proto/wire.pb.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

std::string usage_error(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::string parse_error(const std::string& text) {
  RunConfig config;
  return usage_error([&] { parse_config(text, "my.txtpb", config); });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Config, ParsesWhatItPrints) {
  RunConfig config, again;
  parse_config("seed: 7 stage1 { epochs: 3 lr: 0.05 } # a comment\n data { name: 'shapes' }", "t",
               config);
  EXPECT_EQ(config.seed(), 7u);
  EXPECT_EQ(config.stage1().epochs(), 3);
  EXPECT_EQ(config.data().name(), "shapes");
  complete(config);
  parse_config(to_text(config), "t", again);
  EXPECT_EQ(to_text(again), to_text(config));
}

TEST(Config, ErrorsNameFileLineAndColumn) {
  const std::string unknown = parse_error("seed: 1\nstage1 {\n  epoch: 3\n}\n");
  EXPECT_TRUE(contains(unknown, "unknown field 'epoch'")) << unknown;
  EXPECT_TRUE(contains(unknown, "my.txtpb:3:")) << unknown;
  EXPECT_TRUE(contains(unknown, "did you mean 'epochs'?")) << unknown;

  const std::string far = parse_error("zzzzzz: 1");
  EXPECT_TRUE(contains(far, "my.txtpb:1:")) << far;
  EXPECT_TRUE(contains(far, "known fields: seed, device")) << far;

  EXPECT_TRUE(contains(parse_error("\n\n seed: \"x\""), "my.txtpb:3:8"));
  EXPECT_TRUE(contains(parse_error("seed: 1\nseed: 2"), "my.txtpb:2:"));    // twice
  EXPECT_TRUE(contains(parse_error("ensemble { nets: 4"), "my.txtpb:1:"));  // not closed
  EXPECT_TRUE(contains(parse_error("ensemble { nets: 99999999999 }"), "my.txtpb:1:18"));
}

TEST(Config, UnreadableFileIsAFailureThatNamesIt) {
  RunConfig config;
  try {
    read_config("/nonexistent/x.txtpb", config);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 1);
    EXPECT_TRUE(contains(error.what(), "/nonexistent/x.txtpb"));
  }
}

// Files from other editors: with a byte order mark, with Windows' line ends, or empty.
TEST(Config, AByteOrderMarkIsSkippedAndAnEmptyFileSetsNothing) {
  const test::TempDir dir;
  const auto read = [&](const std::string& bytes) {
    std::ofstream(dir / "my.txtpb", std::ios::binary) << bytes;
    RunConfig config;
    read_config(dir / "my.txtpb", config);
    return config.ShortDebugString();
  };
  EXPECT_EQ(read("\xEF\xBB\xBFseed: 5\r\n"), "seed: 5");
  EXPECT_EQ(read("\xEF\xBB\xBF"), "");
  EXPECT_EQ(read(""), "");
}

TEST(Config, OverridesByPath) {
  RunConfig config;
  parse_config("stage1 { epochs: 3 batch: 64 }", "t", config);
  apply_overrides({"stage1.epochs=9", "ensemble.sigma=0.25", "data.name=folder:/a=b",
                   "data.flip=false", "stage1.epochs=10"},
                  config);
  EXPECT_EQ(config.stage1().epochs(), 10);  // the last one counts
  EXPECT_EQ(config.stage1().batch(), 64);
  EXPECT_EQ(config.ensemble().sigma(), 0.25);
  EXPECT_EQ(config.data().name(), "folder:/a=b");
  EXPECT_FALSE(config.data().flip());

  // A repeated field is replaced, not appended to.
  wire::TensorInfo info;
  info.add_shape(7);
  info.add_shape(8);
  apply_overrides({"shape=1,2,3"}, info);
  EXPECT_EQ(std::vector<int64_t>(info.shape().begin(), info.shape().end()),
            (std::vector<int64_t>{1, 2, 3}));
}

TEST(Config, ASettingIsCheckedWhenItIsSetAndElseLeftAlone) {
  RunConfig config;
  set_checked("ensemble.sigma", "0.5", config);
  EXPECT_EQ(config.ensemble().sigma(), 0.5);
  const std::string before = to_text(config);
  for (const auto& [path, value] : {std::pair("ensemble.sigma", "-1"),
                                    {"device", "tpu"},
                                    {"stage1.epochs", "x"},
                                    {"stage1.epoch", "1"},
                                    {"stage1", "1"}}) {
    EXPECT_THROW(set_checked(path, value, config), Error) << path;
    EXPECT_EQ(to_text(config), before);
  }
  set_checked("attack.shadow_epochs", "3", config);  // an old name
  EXPECT_EQ(config.attack().shadow().epochs(), 3);
}

TEST(Config, BadOverridesSayWhatAndWhere) {
  const auto error_of = [](const std::string& assignment) {
    RunConfig config;
    return usage_error([&] { apply_overrides({assignment}, config); });
  };
  EXPECT_TRUE(contains(error_of("stage1.epocs=3"), "did you mean 'epochs'?"));
  EXPECT_TRUE(contains(error_of("stag1.epochs=3"), "did you mean 'stage1'?"));
  EXPECT_TRUE(contains(error_of("stage1.epochs"), "path=value"));
  EXPECT_TRUE(contains(error_of("stage1.epochs=many"), "--set stage1.epochs=many"));
  EXPECT_TRUE(contains(error_of("stage1.epochs=3 4"), "'3 4' is not a value for 'epochs'"));
  EXPECT_TRUE(contains(error_of("stage1.epochs="), "is not a value"));
  EXPECT_TRUE(contains(error_of("stage1=3"), "group of fields"));
  EXPECT_TRUE(contains(error_of("seed.x=3"), "no fields of its own"));
  EXPECT_TRUE(contains(error_of("=3"), "path=value"));
}

// Every field has its default once complete() has run, so no reader ever sees proto2's zero.
void expect_all_set(const google::protobuf::Message& message, const std::set<std::string>& except) {
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    if (field->is_repeated()) continue;  // empty is its default
    const bool set = message.GetReflection()->HasField(message, field);
    if (except.contains(field->name())) continue;
    if (field->options().HasExtension(schema::moved_to)) {
      EXPECT_FALSE(set) << field->full_name() << " is an old name";
      continue;
    }
    EXPECT_TRUE(set) << field->full_name() << " has no default";
    if (set && field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      expect_all_set(message.GetReflection()->GetMessage(message, field), except);
    }
  }
}

TEST(Config, CompleteSetsEveryField) {
  RunConfig run;
  complete(run);
  expect_all_set(run,
                 {"root", "label_column", "mean", "stddev", "imported", "teacher", "public_data"});
  EXPECT_EQ(run.ensemble().nets(), 10);
  EXPECT_EQ(run.ensemble().selected(), 4);
  EXPECT_EQ(run.stage1().epochs(), 6);
  EXPECT_EQ(run.stage2().epochs(), 4);
  EXPECT_EQ(run.stage1().lr(), 0.2);
  CloudConfig cloud;
  cloud.set_bundle("cloud.h5");
  complete(cloud);
  expect_all_set(cloud, {"secret_key", "clients", "http", "expect_fingerprint"});
  EdgeConfig edge;
  edge.set_bundle("edge.h5");
  complete(edge);
  expect_all_set(edge, {"secret_key", "server_key", "probes", "device_key"});
}

TEST(Config, DefaultsThatDependOnOtherFields) {
  RunConfig config;
  config.mutable_ensemble()->set_nets(3);
  config.mutable_stage1()->set_optimizer("adam");
  complete(config);
  EXPECT_EQ(config.ensemble().selected(), 3);
  EXPECT_EQ(config.stage1().lr(), 1e-3);
  EXPECT_EQ(config.stage2().lr(), 0.2);
  // Zero is a value, not "unset".
  RunConfig zero;
  zero.mutable_ensemble()->set_sigma(0);
  complete(zero);
  EXPECT_EQ(zero.ensemble().sigma(), 0);
}

TEST(Config, RangesNameFieldAndAllowedValues) {
  const auto error_of = [](const std::string& text) {
    RunConfig config;
    parse_config(text, "t", config);
    return usage_error([&] { complete(config); });
  };
  EXPECT_EQ(error_of("ensemble { nets: 0 }"), "ensemble.nets = 0 is out of range; use 1 to 256");
  EXPECT_EQ(error_of("ensemble { nets: 4 selected: 5 }"),
            "ensemble.selected = 5 is more than ensemble.nets = 4; use 1 to 4");
  EXPECT_TRUE(contains(error_of("ensemble { sigma: -0.5 }"), "ensemble.sigma"));
  EXPECT_TRUE(contains(error_of("ensemble { sigma: nan }"), "ensemble.sigma"));
  EXPECT_TRUE(contains(error_of("stage2 { lr: inf }"), "stage2.lr"));
  EXPECT_TRUE(contains(error_of("stage1 { optimizer: 'sdg' }"), "sgd, adam, adamw"));
  EXPECT_TRUE(contains(error_of("data { name: 'imagenet' }"), "data.name = 'imagenet'"));
  EXPECT_TRUE(contains(error_of("data { name: 'folder:' }"), "data.name"));
  EXPECT_TRUE(contains(error_of("device: 'gpu'"), "cuda"));
}

TEST(Config, ServingConfigurationsAreChecked) {
  const auto cloud_error = [](const std::string& text) {
    CloudConfig config;
    parse_config(text, "t", config);
    return usage_error([&] { complete(config); });
  };
  EXPECT_TRUE(contains(cloud_error(""), "bundle is not set"));
  EXPECT_TRUE(contains(cloud_error("bundle: 'x' max_batch: 0"), "max_batch"));
  for (const char* beyond : {"max_batch: 4097", "max_request_batch: 0", "max_request_batch: 4097",
                             "max_queue: 0", "batch_delay_us: -1", "batch_delay_us: 1000001",
                             "threads: -1", "threads: 1025", "drain_ms: -1", "drain_ms: 3600001"}) {
    const std::string field(beyond, std::string(beyond).find(':'));
    EXPECT_TRUE(contains(cloud_error(std::string("bundle: 'x' ") + beyond), field)) << beyond;
  }
  EXPECT_TRUE(contains(cloud_error("bundle: 'x' max_queue: 8 max_request_batch: 9"), "max_queue"));
  EXPECT_TRUE(contains(cloud_error("bundle: 'x' dtype: 'float4'"), "float16, float8"));
  for (const char* dtype : {"auto", "float32", "bfloat16", "float16", "float8"}) {
    CloudConfig config;
    config.set_bundle("x");
    config.set_dtype(dtype);
    EXPECT_NO_THROW(complete(config)) << dtype;
  }
  EXPECT_TRUE(contains(cloud_error("bundle: 'x' secret_key: 'k'"), "belong together"));
  EdgeConfig edge;
  edge.set_bundle("x");
  edge.set_server_key("k");
  EXPECT_TRUE(contains(usage_error([&] { complete(edge); }), "belong together"));
  edge.clear_server_key();
  edge.set_wire_dtype("bfloat16");
  EXPECT_TRUE(contains(usage_error([&] { complete(edge); }), "float32, float16"));
}

}  // namespace
}  // namespace ens
