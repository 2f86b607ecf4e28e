// SPDX-License-Identifier: Apache-2.0
// The Disguise room by raw sockets: pictures, attacks, own pictures, whole sets, and what no answer
// may hold.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/strings.h"
#include "disguise/key/key.h"
#include "disguise/owner/apply.h"
#include "lab/datasets.h"
#include "nn/data/image.h"
#include "nn/io/checkpoint.h"
#include "proto/results.h"
#include "tests/studio/visit.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

class DisguiseRoomTest : public test::StudioVisit {
 protected:
  // A request for the first four drawn figures; `settings`: {"disguise.rmt.block": "8x8"}.
  static json shown(const std::string& method, const json& settings = json::object(),
                    const std::string& data = "shapes") {
    json list = json::array();
    for (const auto& [path, value] : settings.items())
      list.push_back({{"path", path}, {"value", value}});
    return {{"settings", {{"data", data}, {"method", method}, {"settings", list}}},
            {"first", 0},
            {"count", 4},
            {"visitor", "t"}};
  }
  json post(const std::string& path, const json& body, int wanted = 200) {
    const auto [status, text] = ask("POST", path, body.dump());
    EXPECT_EQ(status, wanted) << path << body << ": " << text.substr(0, 400);
    return json::parse(text, nullptr, false);
  }
  json attack(const std::string& method, const std::string& name,
              const json& settings = json::object()) {
    return post("disguise/attack", {{"shown", shown(method, settings)}, {"attack", name}});
  }
  std::string picture(const std::string& id) { return ask("GET", "pictures/" + id).second; }
  std::pair<int, std::string> upload(const std::string& bytes) {
    return ask("POST", "disguise/own", bytes, "application/octet-stream");
  }
  static std::string png(int side) {
    Tensor image = Tensor::empty({3, side, side});
    for (int64_t i = 0; i < image.numel(); ++i)
      image.data<float>()[i] = static_cast<float>(i % 97) / 97;
    const std::vector<uint8_t> bytes = encode_png(image);
    return {bytes.begin(), bytes.end()};
  }
};

TEST_F(DisguiseRoomTest, ShowsEveryMethodOfTheRegistry) {
  start();
  const json choices = get("disguise");
  std::set<std::string> methods;
  for (const json& method : choices["methods"]) {
    methods.insert(method["name"]);
    if (method["tab"] == "NeuraCrypt" || method["tab"] == "InstaHide") continue;  // of their own
    const json preview = post("disguise/preview", shown(method["name"]));
    EXPECT_TRUE(picture(preview["disguised"]).starts_with("\x89PNG"));
    EXPECT_EQ(preview["labels"].size(), 4u);
    EXPECT_EQ(preview["original"] == preview["disguised"], method["name"] == "identity");
    EXPECT_EQ(preview["key_bytes"] > 0, method.value("keyed", false) || method["name"] == "aesctr");
  }
  for (const char* name : {"identity", "rmt", "aes", "aesctr", "noise", "dp"})
    EXPECT_TRUE(methods.contains(name)) << name;
  // The key is kept as long as the settings are looked at; noise is drawn anew.
  EXPECT_EQ(post("disguise/preview", shown("rmt"))["disguised"],
            post("disguise/preview", shown("rmt"))["disguised"]);
  EXPECT_NE(post("disguise/preview", shown("rmt", {{"disguise.rmt.noise", "50"}}))["disguised"],
            post("disguise/preview", shown("rmt", {{"disguise.rmt.noise", "50"}}))["disguised"]);
}

// What has to succeed does, and the control stays at chance.
TEST_F(DisguiseRoomTest, AttacksRebuildRmtAndNotCounterMode) {
  start();
  const json exact = attack("rmt", "procrustes");
  ASSERT_EQ(exact["points"].size(), 8u);  // 1 to 1000 known pairs
  EXPECT_EQ(exact["points"][0]["x"], 1);
  const json best = exact["points"][exact["best"].get<size_t>()];
  EXPECT_GT(best["ssim"]["mean"], .999);
  EXPECT_GT(best["rank1"]["mean"], .95);
  EXPECT_EQ(best["verdict"], "bad");
  EXPECT_EQ(picture(best["rebuilt"]), picture(post("disguise/preview", shown("rmt"))["original"]));
  EXPECT_GT(attack("rmt", "moments")["points"][0]["rank1"]["mean"], .9);
  for (const char* name : {"thumbnail", "regression", "codebook"}) {
    const json control = attack("aesctr", name);
    const json& point = control["points"][control["best"].get<size_t>()];
    EXPECT_LT(point["rank1"]["mean"], .1) << name;  // 64 queries among 1000
    EXPECT_NE(point["verdict"], "bad") << name;
  }
  const json no = post("disguise/attack", {{"shown", shown("aes")}, {"attack", "moments"}}, 409);
  EXPECT_NE(no["what"].get<std::string>().find("linear"), std::string::npos);
  post("disguise/attack", {{"shown", shown("rmt")}, {"attack", "oracle"}}, 409);  // takes too long
}

TEST_F(DisguiseRoomTest, RequestsByHandAreRefused) {
  start();
  const auto bad = [&](json request, int wanted = 400) {
    post("disguise/preview", request, wanted);
  };
  for (const auto& [path, value] : std::vector<std::pair<std::string, std::string>>{
           {"disguise.rmt.noise", "NaN"},
           {"disguise.rmt.noise", "-1"},
           {"disguise.rmt.noise", "1e99"},
           {"disguise.rmt.block", "3x3"},
           {"disguise.rmt.block", "4x4\" seed: 1"},
           {"disguise.rmt.block", ""},
           {"disguise.aes.unit", "4x4"},  // not of this method
           {"disguise.insecure_seeded_secrets", "true"},
           {"seed", "4"},
           {"data.root", "x"}})
    bad(shown("rmt", {{path, value}}));
  bad(shown("none"));
  bad(shown("nonsense"));
  bad(shown("rmt", json::object(), "folder:/etc"));
  bad(shown("rmt", {{"disguise.rmt.block", "28x28"}}, "shapes"), 200);  // padded
  json request = shown("rmt");
  for (const int first : {-1, 1 << 20}) {
    request["first"] = first;
    bad(request);
  }
  request = shown("rmt");
  request["count"] = 3;
  bad(request);
  bad(shown("rmt", json::object(), "own"), 409);  // there are none
  post("disguise/attack", {{"shown", shown("rmt")}, {"attack", "../x"}}, 400);
  post("disguise/sets/..%2f..%2fx/upload", json::object(), 404);
  EXPECT_EQ(ask("DELETE", "disguise/sets/0123456789abcdef").first, 404);
  for (const char* id : {"../../etc", "0123456789abcdef", ""}) {
    json training = {
        {"kind", "SET"}, {"set", id}, {"architecture", "lenet"}, {"epochs", 1}, {"rate", .1}};
    post("jobs", training, 404);
    training["kind"] = "PLAIN";
    post("jobs", training, 404);
    training["architecture"] = "--out=/x";
    post("jobs", training, 400);
  }
}

// Only what its visitor brought, only as pixels, only for that visitor.
TEST_F(DisguiseRoomTest, OwnPicturesStayTheVisitors) {
  start();
  std::string with_text = png(80);  // a picture with something behind it
  with_text += "<script>alert(1)</script>";
  EXPECT_EQ(upload(png(100)).first, 201);
  EXPECT_EQ(upload(png(1)).first, 201);
  EXPECT_EQ(json::parse(upload(with_text).second)["count"], 3);
  const json mine = post("disguise/preview", shown("rmt", json::object(), "own"));
  EXPECT_EQ(mine["image_shape"], "3x64x64");
  EXPECT_EQ(mine["total"], 3);
  for (const char* id : {"original", "disguised"})
    EXPECT_EQ(picture(mine[id]).find("script"), std::string::npos);
  const std::string visitor = visitor_;
  visitor_ = std::string(32, 'b');  // somebody else
  post("disguise/preview", shown("rmt", json::object(), "own"), 409);
  EXPECT_EQ(get("disguise/own")["count"].get<int>(), 0);
  visitor_ = "../" + visitor;  // no such name: a new visitor
  EXPECT_EQ(get("disguise/own").value("count", 0), 0);
  visitor_ = visitor;
  EXPECT_EQ(get("disguise/own")["count"], 3);
  EXPECT_EQ(ask("DELETE", "disguise/own").first, 200);
  EXPECT_EQ(get("disguise/own").value("count", 0), 0);
}

TEST_F(DisguiseRoomTest, PicturesThatCannotBeReadAreRefusedWithReasons) {
  start();
  const std::string good = png(32);
  EXPECT_EQ(upload("").first, 415);
  EXPECT_EQ(upload("GIF89a").first, 415);
  EXPECT_EQ(upload("<svg xmlns='http://www.w3.org/2000/svg'/>").first, 415);
  EXPECT_EQ(upload(good.substr(0, good.size() / 2)).first, 400);  // cut off
  std::string changed = good;
  const auto set = [&](size_t at, uint32_t value) {  // big-endian, in IHDR
    for (int i = 0; i < 4; ++i)
      changed[at + static_cast<size_t>(i)] = static_cast<char>(value >> (24 - 8 * i));
  };
  set(16, 0), set(20, 0);
  EXPECT_EQ(upload(changed).first, 400) << "0x0";
  set(16, 5000), set(20, 5000);  // 25 megapixels, refused before anything is decoded
  const auto [status, why] = upload(changed);
  EXPECT_EQ(status, 400);
  EXPECT_NE(why.find("20000000"), std::string::npos) << why;
  EXPECT_EQ(upload(std::string(17 << 20, 'x')).first, 413);
  EXPECT_EQ(ask("POST", "disguise/preview", std::string(2 << 20, ' ')).first, 413);  // JSON: 1 MiB
  EXPECT_EQ(get("disguise/own").value("count", 0), 0);
  for (int i = 0; i < 256; ++i) ASSERT_EQ(upload(good).first, 201);
  EXPECT_EQ(upload(good).first, 409);
}

TEST_F(DisguiseRoomTest, ReadOnlyShowsAndAttacksButTakesNothing) {
  options_.read_only = true;
  start();
  EXPECT_EQ(post("disguise/preview", shown("rmt"))["count"], 4);
  EXPECT_EQ(upload(png(8)).first, 403);
  post("disguise/sets", {{"settings", shown("rmt")["settings"]}}, 403);
  EXPECT_FALSE(fs::exists(options_.runs / ".studio"));
}

// A whole visit of the room: disguise a set (the command itself is in the browser's test), upload
// it, look at it as the cloud. No answer holds the key, or what follows from it.
TEST_F(DisguiseRoomTest, NoAnswerHoldsTheKey) {
  start();
  get("disguise");
  const json settings = {{"disguise.rmt.permute", "true"}, {"disguise.permute_labels", "true"}};
  post("disguise/preview", shown("rmt", settings));
  attack("rmt", "regression", settings);
  const json job = post("disguise/sets", {{"settings", shown("rmt", settings)["settings"]}}, 201);
  get("jobs/" + job["id"].get<std::string>());
  const std::string id = get("disguise/sets")["sets"][0]["id"];
  const fs::path folder = options_.runs / ".studio" / "owner" / id;
  EXPECT_EQ(fs::status(folder / "owner.key").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(fs::status(folder.parent_path()).permissions(), fs::perms::owner_all);
  post("disguise/sets/" + id + "/upload", json::object(), 409);  // not done yet

  const DisguiseKey key = DisguiseKey::read(folder / "owner.key");
  EXPECT_TRUE(key.settings().rmt().permute());
  DataOptions options;
  options.name = "shapes";
  options.limit = 600;
  apply_disguise(key, load_dataset(options, DataSplit::kTrain), "train", folder / "train.h5");
  apply_disguise(key, load_dataset(options, DataSplit::kTest), "test", folder / "test.h5");
  std::ofstream(folder / "set.json") << R"({"data":"shapes","method":"rmt","format":1,"files":[
      {"name":"train.h5","rows":600,"seconds":1},{"name":"test.h5","rows":600,"seconds":1}]})";
  const json done = get("disguise/sets")["sets"][0];
  EXPECT_EQ(done["leaves"].size(), 8u);
  EXPECT_EQ(done["leaves"][0]["bytes"], 600 * 3 * 32 * 32 * 2);
  EXPECT_EQ(post("disguise/sets/" + id + "/upload", json::object())["sets"][0]["uploaded"], true);
  std::set<std::string> uploaded;
  for (const auto& entry : fs::directory_iterator(options_.runs / ".studio" / "uploads" / id))
    uploaded.insert(entry.path().filename());
  EXPECT_EQ(uploaded, (std::set<std::string>{"test.h5", "train.h5"}));
  const json set = get("cloud")["sets"][0];
  EXPECT_EQ(set["rows"], 600);
  EXPECT_EQ(set["key_id"], key.id());
  EXPECT_TRUE(picture(set["picture"]).starts_with("\x89PNG"));
  post("jobs",
       {{"kind", "SET"}, {"set", id}, {"architecture", "lenet"}, {"epochs", 1}, {"rate", .05}},
       201);
  post("jobs",
       {{"kind", "PLAIN"}, {"set", id}, {"architecture", "lenet"}, {"epochs", 1}, {"rate", .05}},
       201);
  get("jobs");

  const Checkpoint secret = read_checkpoint(folder / "owner.key", "disguise-key");
  ASSERT_TRUE(secret.tensors.contains("master"));
  ASSERT_GT(secret.tensors.size(), 1u);
  int searched = 0;
  for (const auto& [name, tensor] : secret.tensors) {
    const Tensor plain = tensor.plain();
    const std::string bytes(
        reinterpret_cast<const char*>(plain.raw()),
        std::min<size_t>(32, static_cast<size_t>(plain.numel()) * size_of(plain.dtype())));
    if (bytes.size() < 8) continue;
    ++searched;
    EXPECT_EQ(everything_.find(bytes), std::string::npos) << name;
    EXPECT_EQ(everything_.find(to_hex(bytes)), std::string::npos) << name;
  }
  EXPECT_GE(searched, 2);
  EXPECT_EQ(ask("DELETE", "disguise/sets/" + id).first, 200);
  EXPECT_FALSE(fs::exists(folder));
}

}  // namespace
}  // namespace ens
