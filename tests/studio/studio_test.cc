// SPDX-License-Identifier: Apache-2.0
// The whole server by raw sockets, over run folders as trainings leave them.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "studio/index.h"
#include "tests/ensemble/bundles.h"
#include "tests/studio/visit.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;
using Clock = std::chrono::steady_clock;

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

constexpr const char* kSecret = "0123secret4567";
const std::string kPng("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU", 33);

void write_run(const fs::path& run, const std::string& protection, double accuracy) {
  write(run / "config.txtpb",
        "seed: 4711\ndata {\n  name: \"shapes\"\n  root: \"/secret/place\"\n}\nprotection {\n  "
        "kind: \"" +
            protection + "\"\n}\n");
  write(run / "info.json",
        R"({"version":"1","command":"ensembler train --out x --set seed=4711 )"
        R"(--set data.root=/home/x --set 'offload.insecure_seeded_secrets=4711' --data /home/x",)"
        R"("device":"CPU","seed":4711})");
  write(run / "summary.json", json{{"protection", protection},
                                   {"data", "shapes"},
                                   {"architecture", "resnet18"},
                                   {"width", 8},
                                   {"accuracy", accuracy},
                                   {"split", {{"head", 1}, {"tail", 1}}},
                                   {"bytes", {{"up", 4096}, {"down", 512}}},
                                   {"flops", {{"edge", 1e6}, {"cloud", 1e8}}}}
                                  .dump());
  write(run / "metrics.csv",
        "time,stage,net,epoch,step,name,value\n"
        "2025-01-02T03:04:05Z,stage1,0,0,1,loss,2.5\n2025-01-02T03:04:06Z,stage1,0,1,2,loss,1.5\n");
  for (const char* secret : {"edge.h5", "stage2/secrets.h5", "owner/key"})
    write(run / secret, kSecret);
  write(run / "DONE", "");
}
void write_attack(const fs::path& run, const std::string& attack, const std::string& level,
                  double ssim) {
  write(run / "attack" / attack / "result.json",
        json{{"attack", attack},
             {"title", attack},
             {"level", level},
             {"scored_images", 8},
             {"ssim", {{"mean", ssim}, {"low", ssim - .01}, {"high", ssim + .01}}},
             {"psnr", {{"mean", 20 * ssim}}}}
            .dump());
  write(run / "attack" / attack / "original.png", kPng);
  write(run / "attack" / attack / "reconstruction.png", kPng + "1");
}

using StudioTest = test::StudioVisit;

TEST_F(StudioTest, ShowsRunsAndTheirMatrix) {
  write_run(options_.runs / "none", "none", .8);
  write_run(options_.runs / "ours", "ensembler", .75);
  for (const char* run : {"none", "ours"}) {
    write_attack(options_.runs / run, "oracle", "black box", .9);
    write_attack(options_.runs / run, "shadow-n1", "query-free", run[0] == 'n' ? .8 : .3);
  }
  start();
  const json state = get("state");
  EXPECT_EQ(state["runs"], 2);
  ASSERT_EQ(state["groups"].size(), 1u);
  const json matrix = get("matrix?group=" + state["groups"][0]["id"].get<std::string>());
  ASSERT_EQ(matrix["comparisons"].size(), 1u);
  const json rows = matrix["comparisons"][0]["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["protection"], "ensembler");
  EXPECT_NEAR(rows[1]["change"]["mean"].get<double>(), -.05, 1e-9);
  const json cell = rows[1]["cells"][1];
  EXPECT_EQ(cell["attack"], "shadow-n1");
  EXPECT_EQ(cell["strength"], "strong");  // it read 8/9 of the decoder's SSIM without protection
  EXPECT_FALSE(cell.contains("reidentified"));

  const std::string id = cell["run"];
  const json run = get("runs/" + id);
  EXPECT_EQ(run["summary"]["bytes"]["up"], 4096);
  const std::string picture = run["attacks"][1]["reconstruction"];
  const auto [status, png] = ask("GET", "pictures/" + picture);
  EXPECT_EQ(status, 200);
  EXPECT_EQ(png, kPng + "1");
  const json curve = get("runs/" + id + "/curve?metric=loss");
  EXPECT_EQ(curve["lines"][0]["y"], json({2.5, 1.5}));
  EXPECT_EQ(get("runs?limit=1")["runs"].size(), 1u);
  EXPECT_EQ(get("runs?limit=1")["total"], 2);
}

// A whole visit: no answer holds what lies in a secret file, a seed or a path of the disk.
TEST_F(StudioTest, NoAnswerHoldsASecret) {
  write_run(options_.runs / "ours", "ensembler", .75);
  write_attack(options_.runs / "ours", "oracle", "black box", .9);
  write(options_.runs / "sweep.json",
        R"({"title":"sweep","command":"ensembler sweep x --set seed=4711,4712","format":1})");
  start();
  const json state = get("state");
  for (const json& group : state["groups"]) get("matrix?group=" + group["id"].get<std::string>());
  const json runs = get("runs");
  ASSERT_EQ(runs["total"], 1);
  for (const json& entry : runs["runs"]) {
    const std::string id = entry["id"];
    const json run = get("runs/" + id);
    EXPECT_EQ(run["command"],
              "ensembler train --out x --set seed=... --set data.root=... --set "
              "offload.insecure_seeded_secrets=... --data ...");
    for (const json& attack : run["attacks"])
      ask("GET", "pictures/" + attack["original"].get<std::string>());
    get("runs/" + id + "/curve");
    for (const char* file : {"edge.h5", "stage2/secrets.h5", "..%2f..%2fours%2fedge.h5"})
      EXPECT_EQ(ask("GET", "runs/" + id + "/" + file).first, 404);
  }
  get("jobs");
  ASSERT_GT(everything_.size(), 1000u);
  for (const std::string& secret : {std::string(kSecret), std::string("4711"),
                                    std::string("/secret/place"), std::string("/home/x")})
    EXPECT_EQ(everything_.find(secret), std::string::npos)
        << secret << " in " << everything_.substr(everything_.find(secret) - 200, 400);
}

// The room of split inference: a picture passes, and requests by hand do not.
TEST_F(StudioTest, SendsAPictureThroughARun) {
  const fs::path run = options_.runs / "ours";
  write_run(run, "ensembler", .75);
  test::Bundles bundles = test::random_bundles(3);
  test::write(bundles, run);
  write(run / "config.txtpb",
        "data {\n  name: \"shapes\"\n  test_limit: 8\n  image_size: 16\n}\nprotection {\n"
        "  kind: \"ensembler\"\n}\nensemble {\n  nets: 4\n  selected: 2\n  sigma: 0.1\n}\n");
  start();
  const std::string id = get("runs")["runs"][0]["id"];
  const json room = get("split/" + id);
  ASSERT_FALSE(room.contains("unavailable")) << room["unavailable"];
  EXPECT_EQ(room["images"], 8);
  EXPECT_EQ(room["cells"].size(), 6u);
  EXPECT_EQ(room["can_vary_sigma"], true);
  const auto trace = [&](const std::string& more) {
    return ask("POST", "split/trace", "{\"run\":\"" + id + "\"" + more + "}");
  };
  const json plain = json::parse(trace(R"(,"sigma":0)").second);
  EXPECT_EQ(plain["sent"], plain["clean"]);  // pictures are named by what is in them
  EXPECT_EQ(plain["bodies"].size(), 4u);
  EXPECT_EQ(plain["answers"].size(), 5u);
  const json noisy = json::parse(trace("").second);
  EXPECT_NE(noisy["sent"], noisy["clean"]);
  EXPECT_EQ(noisy["clean"], plain["clean"]);
  EXPECT_EQ(ask("GET", "pictures/" + noisy["sent"].get<std::string>()).first, 200);
  for (const char* bad : {R"(,"sigma":"NaN")", R"(,"sigma":-0.1)", R"(,"sigma":1e30)",
                          R"(,"sigma":"Infinity")", R"(,"image":-1)", R"(,"image":8)"})
    EXPECT_EQ(trace(bad).first, 400) << bad;
  EXPECT_EQ(ask("POST", "split/trace", R"({"run":"0"})").first, 404);
  fs::remove(run / "edge.h5");
  EXPECT_TRUE(get("split/" + id).contains("unavailable"));
}

TEST_F(StudioTest, DamageIsNamedAndHidesNothingElse) {
  write_run(options_.runs / "good", "none", .8);
  write_run(options_.runs / "torn", "none", .8);
  write(options_.runs / "torn" / "summary.json", "{\"protection\":");
  write_run(options_.runs / "newer", "none", .8);
  write(options_.runs / "newer" / "summary.json",
        R"({"protection":"none","data":"shapes","format":99})");
  write_run(options_.runs / "half", "none", .8);
  fs::remove(options_.runs / "half" / "DONE");
  start();
  std::map<std::string, std::string> status;
  const json runs = get("runs");
  for (const json& run : runs["runs"]) status[run["name"]] = run["status"];
  EXPECT_EQ(status["good"], "finished");
  EXPECT_EQ(status["torn"], "damaged");
  EXPECT_EQ(status["newer"], "newer");
  EXPECT_EQ(status["half"], "training");  // its metrics are new
  const json state = get("state");
  EXPECT_EQ(state["damaged"], 2);
  const json matrix = get("matrix?group=" + state["groups"][0]["id"].get<std::string>());
  EXPECT_EQ(matrix["comparisons"][0]["rows"].size(), 1u);
  EXPECT_EQ(matrix["skipped"].size(), 3u);
}

TEST_F(StudioTest, ARunThatIsDeletedIsMissedPolitely) {
  write_run(options_.runs / "a", "none", .8);
  write_attack(options_.runs / "a", "oracle", "black box", .9);
  start();
  const std::string id = get("runs")["runs"][0]["id"];
  const std::string picture = get("runs/" + id)["attacks"][0]["original"];
  fs::remove_all(options_.runs / "a");
  EXPECT_EQ(ask("GET", "pictures/" + picture).first, 404);
  for (int i = 0; i < 60 && ask("GET", "runs/" + id).first != 404; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto [status, text] = ask("GET", "runs/" + id);
  EXPECT_EQ(status, 404);
  EXPECT_NE(text.find("deleted"), std::string::npos);
}

TEST_F(StudioTest, RequestsByHandAreRefused) {
  write_run(options_.runs / "a", "none", .8);
  start();
  const std::string id = get("runs")["runs"][0]["id"];
  for (const char* path : {"runs?limit=-1", "runs?limit=1e9", "runs?offset=x"})
    EXPECT_EQ(ask("GET", path).first, 400) << path;
  EXPECT_EQ(ask("GET", "runs/" + id + "/curve?max=99999999").first, 400);
  for (const char* path :
       {"runs/0", "matrix?group=..", "pictures/..%2f..%2fetc%2fpasswd", "jobs/x"})
    EXPECT_EQ(ask("GET", path).first, 404) << path;
  EXPECT_EQ(ask("POST", "jobs", "{}").first, 400);
  for (const char* job : {R"({"kind":"ATTACK","run":"../../x","attack":"oracle"})",
                          R"({"kind":"TRAIN","data":"folder:/etc","protection":"none"})",
                          R"({"kind":"TRAIN","data":"shapes","protection":"none","width":-3})",
                          R"({"kind":"TRAIN","data":"shapes","protection":"none","sigma":"NaN"})",
                          R"({"kind":"TRAIN","data":"shapes","protection":"--out=/x"})"}) {
    const int status = ask("POST", "jobs", job).first;
    EXPECT_TRUE(status == 400 || status == 404) << job << ": " << status;
  }
  EXPECT_EQ(get("jobs")["jobs"].size(), 0u);
  // A head without an end, or too much of it.
  const std::string flood =
      raw("GET / HTTP/1.1\r\nHost: " + host_ + "\r\n" + std::string(40000, 'x'));
  EXPECT_TRUE(flood.empty() || flood.starts_with("HTTP/1.1 4")) << flood.substr(0, 80);
}

// studio/api.md lists what the server answers: every address is known to it.
TEST_F(StudioTest, AnswersWhatItsDescriptionLists) {
  write_run(options_.runs / "a", "none", .8);
  start();
  std::ifstream in(fs::path(ENS_SOURCE_DIR) / "studio/api.md");
  int addresses = 0;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("| `")) continue;
    std::string method = line.substr(3, line.find(' ', 3) - 3);
    std::string path = line.substr(line.find(' ', 3) + 1);
    path = path.substr(0, path.find('`'));
    path = path.substr(0, path.find('?'));
    if (const size_t id = path.find("ID"); id != std::string::npos) path.replace(id, 2, "0");
    if (path == "events") continue;  // has no end
    ++addresses;
    const auto [status, text] = ask(method, path, method == "POST" ? "{}" : "");
    EXPECT_EQ(text.find("nothing at this address"), std::string::npos) << line;
    EXPECT_NE(status, 405) << line;
  }
  EXPECT_GE(addresses, 14);
}

TEST_F(StudioTest, ReadOnlyStartsAndWritesNothing) {
  write_run(options_.runs / "a", "none", .8);
  options_.read_only = true;
  start();
  EXPECT_EQ(ask("POST", "jobs", R"({"kind":"DEMO"})").first, 403);
  EXPECT_EQ(get("jobs")["read_only"], true);
  EXPECT_FALSE(fs::exists(options_.runs / ".studio"));
}

TEST_F(StudioTest, ASecondStudioOfAFolderIsReadOnly) {
  start();
  Studio second(options_);
  EXPECT_NE(second.note().find("read-only: another studio"), std::string::npos);
}

TEST_F(StudioTest, ItsTokenOutlivesIt) {
  start();
  const std::string before = studio_->address().substr(studio_->address().find('#'));
  studio_.reset();
  start();
  EXPECT_EQ(studio_->address().substr(studio_->address().find('#')), before);
  EXPECT_EQ(fs::status(options_.runs / ".studio" / "token").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(StudioTest, IsOpenToOthersOnlyWithCare) {
  options_.bind = "0.0.0.0:0";
  EXPECT_NE(test::error_of([&] { Studio s(options_); }).find("without encryption"),
            std::string::npos);
  options_.behind_proxy = true;
  options_.token = false;
  EXPECT_NE(test::error_of([&] { Studio s(options_); }).find("--no-token"), std::string::npos);
  options_.bind = "127.0.0.1:0";  // a proxy would let others in
  EXPECT_NE(test::error_of([&] { Studio s(options_); }).find("--no-token"), std::string::npos);
  options_.token = true;
  start();
  EXPECT_NE(sign_in_.find("; Secure\r\n"), std::string::npos) << sign_in_;
  studio_.reset();
  options_.behind_proxy = false;
  options_.runs = temp_ / "none";
  EXPECT_NE(test::error_of([&] { Studio s(options_); }).find("no such folder"), std::string::npos);
  options_.runs = temp_ / "runs";
  start();
  EXPECT_EQ(sign_in_.find("; Secure"), std::string::npos) << sign_in_;
  options_.bind = host_;
  EXPECT_NE(test::error_of([&] { Studio s(options_); }).find("another process may have this port"),
            std::string::npos);
}

// Many files are looked at, and only those that say what a run is are read. ENS_STUDIO_RUNS=10000
// asks for more runs: most of the time goes into making them.
TEST(StudioIndex, ThousandsOfRunsAreReadFast) {
  const char* wanted = std::getenv("ENS_STUDIO_RUNS");
  const int count = wanted ? std::atoi(wanted) : 1000;
  test::TempDir temp;
  write_run(temp / "one", "none", .8);
  for (int i = 0; i < count; ++i) {
    const fs::path run = temp.path() / "many" / std::to_string(i / 100) / std::to_string(i);
    fs::create_directories(run);
    for (const char* file : {"config.txtpb", "info.json", "summary.json", "DONE"})
      fs::create_hard_link(temp.path() / "one" / file, run / file);
  }
  const auto start = Clock::now();
  const Index index(temp.path(), [] {});
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  EXPECT_EQ(index.snapshot()->runs.size(), static_cast<size_t>(count) + 1);
  std::printf("%d runs indexed in %.2f s\n", count, seconds);
  EXPECT_LT(seconds, 1 + 1e-3 * count);  // a fifth of it on an idle machine
}

}  // namespace
}  // namespace ens
