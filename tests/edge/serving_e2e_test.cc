// SPDX-License-Identifier: Apache-2.0
// Edge and cloud as an operator runs them: two programs, TCP between them, signals, exit codes.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "edge/client.h"
#include "edge/stream.h"
#include "net/keys.h"
#include "net/wiretap.h"
#include "nn/data/dataset.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "tests/edge/serving.h"
#include "tests/edge/tcp_proxy.h"
#include "tests/nn/data/clips.h"
#include "tests/support/listener.h"

namespace ens {
namespace {

using nlohmann::json;
using test::Args;
using test::Process;
using test::Traffic;
using ServingTest = test::ServingTest;

int best(const float* logits, int64_t classes) {
  return static_cast<int>(std::max_element(logits, logits + classes) - logits);
}

TEST_F(ServingTest, ClassifiesPicturesOfAFolder) {
  start_cloud();
  EXPECT_EQ(cloud_->out(), endpoint_ + "\n");
  const Tensor images = test::random_images(bundles_.edge.info.model, 4, 9);
  std::filesystem::create_directory(dir_ / "pictures");
  for (int i = 0; i < 4; ++i) {
    write_png(dir_ / "pictures" / ("p" + std::to_string(i) + ".png"),
              images.rows(i, 1).reshape({3, 16, 16}));
  }
  auto process = edge({"--json", path("pictures")});
  ASSERT_EQ(process->wait(), 0) << process->err();
  std::istringstream lines(process->out());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json result = json::parse(line);
    // PNG rounds to 8 bits: expect what the rounded picture gives.
    const Tensor picture = read_image(result["file"].get<std::string>(), 3, 16, 16);
    const auto logits = expected_logits(bundles_, picture.reshape({1, 3, 16, 16})).to_vector();
    EXPECT_EQ(result["top"][0]["index"], best(logits.data(), 10));
    ASSERT_EQ(result["top"].size(), 5u);
    double sum = 0;
    for (float v : logits) sum += std::exp(v - logits[result["top"][0]["index"]]);
    EXPECT_NEAR(result["top"][0]["probability"].get<double>(), 1 / sum, 1e-3);
    EXPECT_GT(result["bytes"]["sent"], 4 * 16 * 16 * 4);
    EXPECT_GT(result["times_ms"]["total"], 0);
  }
  EXPECT_EQ(count, 4);

  auto readable = edge({path("pictures/p0.png")});
  EXPECT_EQ(readable->wait(), 0) << readable->err();
  EXPECT_NE(readable->out().find("p0.png\n"), std::string::npos);
  EXPECT_NE(readable->out().find(" %  class "), std::string::npos);
}

TEST_F(ServingTest, BadPictureIsNamedAndTheOthersAreClassified) {
  start_cloud();
  const Tensor image = test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16});
  write_png(dir_ / "good.png", image);
  write_png(dir_ / "large.png", image, 2);
  std::ofstream(dir_ / "text.png") << "not a picture";
  auto process =
      edge({"--json", path("large.png"), path("text.png"), path("none.png"), path("good.png")});
  EXPECT_EQ(process->wait(), 1);
  const std::string err = process->err(), out = process->out();
  EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 3) << err;
  for (const char* name : {"large.png", "text.png", "none.png"}) {
    EXPECT_NE(err.find(name), std::string::npos) << err;
  }
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1);
  EXPECT_NE(out.find("good.png"), std::string::npos);
  auto resized = edge({"--resize", path("large.png")});
  EXPECT_EQ(resized->wait(), 0) << resized->err();
}

class ChannelServingTest : public ServingTest {
 protected:
  ChannelServingTest() {
    protect(make_channel(2000, elements(), true));
    std::filesystem::create_directory(dir_ / "pictures");
    const Tensor images = test::random_images(bundles_.edge.info.model, 3, 9);
    for (int i = 0; i < 3; ++i) {
      write_png(dir_ / "pictures" / ("p" + std::to_string(i) + ".png"),
                images.rows(i, 1).reshape({3, 16, 16}));
    }
    write_device_key(dir_ / "door.device");
  }
  int64_t elements() const {
    return smashed_shape(bundles_.edge.info.model, bundles_.edge.info.split).numel();
  }
  void protect(const Channel& channel) {
    bundles_.edge.protection = {channel_step(channel)};
    write(bundles_, dir_.path());
  }
  // What one process sends for the pictures, as the cloud receives it.
  Tensor sent(const Args& more, std::string* out = nullptr) {
    Wiretap tap(endpoint_);
    Args args{"--bundle", path("edge.h5"), "--cloud", tap.endpoint(), "--json", path("pictures")};
    args.insert(args.end(), more.begin(), more.end());
    auto process = run("ensembler-edge", args);
    EXPECT_EQ(process->wait(), 0) << process->err();
    if (out) *out = process->out();
    return tap.features();
  }
};

TEST_F(ChannelServingTest, SendsAByteForEachElementAndTheSameBytesForTheSameImage) {
  start_cloud();
  std::string out;
  const Tensor first = sent({"--device-key", path("door.device")}, &out);
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) {
    const json result = json::parse(line);
    EXPECT_GT(result["bytes"]["sent"], elements());
    EXPECT_LT(result["bytes"]["sent"], elements() + 200);  // float32: four times as many
  }
  // Another process, and a cloud that was restarted.
  cloud_->signal(SIGTERM);
  cloud_->wait();
  start_cloud();
  EXPECT_EQ(sent({"--device-key", path("door.device")}).to_vector(), first.to_vector());
  write_device_key(dir_ / "other.device");
  EXPECT_NE(sent({"--device-key", path("other.device")}).to_vector(), first.to_vector());

  // Noise that is not keyed: never the same again, whatever is started anew.
  protect(make_channel(2000, elements(), false));
  const Tensor once = sent({}), again = sent({});
  for (int64_t image = 0; image < 3; ++image) {
    double square = 0;
    for (int64_t i = 0; i < elements(); ++i) {
      const int64_t at = image * elements() + i;
      square += std::pow(once.data<float>()[at] - again.data<float>()[at], 2);
    }
    EXPECT_NEAR(square / static_cast<double>(elements()), 2, 0.5) << "two independent noises";
  }
}

// The same key in C and in C++: the same bytes, and so the same logits.
TEST_F(ChannelServingTest, WorksThroughBothInterfaces) {
  start_cloud();
  const Tensor images = test::random_images(bundles_.edge.info.model, 3, 9);
  std::ofstream(path("images.raw"), std::ios::binary)
      .write(static_cast<const char*>(images.host()), static_cast<std::streamsize>(images.bytes()));
  EdgeConfig config = edge_config();
  config.set_device_key(path("door.device"));
  auto c =
      run("c_client", {config.ShortDebugString(), "3", path("images.raw"), path("logits.raw")});
  ASSERT_EQ(c->wait(), 0) << c->err();
  std::vector<float> logits(30);
  std::ifstream(path("logits.raw"), std::ios::binary)
      .read(reinterpret_cast<char*>(logits.data()), 30 * sizeof(float));
  const auto result = EdgeClient(config).classify(images);
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  const auto wanted = result.value.logits.to_vector();
  for (size_t i = 0; i < 30; ++i)
    EXPECT_NEAR(logits[i], wanted[i], 1e-4 * (1 + std::abs(wanted[i])));
  config.clear_device_key();
  auto none =
      run("c_client", {config.ShortDebugString(), "3", path("images.raw"), path("logits.raw")});
  EXPECT_EQ(none->wait(), 1);
  EXPECT_NE(none->err().find("--device-key"), std::string::npos) << none->err();
}

TEST_F(ChannelServingTest, WithoutItsKeyOrWithAnotherPowerNothingIsSent) {
  start_cloud();
  const auto refused = [&](const Args& more, const std::string& says, int code = 1) {
    Wiretap tap(endpoint_);
    Args args{"--bundle", path("edge.h5"), "--cloud", tap.endpoint(), path("pictures/p0.png")};
    args.insert(args.end(), more.begin(), more.end());
    expect_refused(*run("ensembler-edge", args), code, says);
    EXPECT_THROW(tap.features(), Error) << "something was sent";
  };
  refused({}, "--device-key", 2);
  refused({"--device-key", path("none.device")}, "cannot read the secret key file");
  std::filesystem::permissions(dir_ / "door.device", std::filesystem::perms::others_read,
                               std::filesystem::perm_options::add);
  refused({"--device-key", path("door.device")}, "can be read by others");

  Channel channel = make_channel(2000, elements(), false);
  bundles_.edge.protection = {channel_step(channel)};
  bundles_.edge.protection[0].values.data<float>()[1] *= 1.5f;  // louder than its bits allow
  EXPECT_THROW(write(bundles_, dir_.path()), Error);

  // A head whose output is no number: found before anything is sent.
  protect(channel);
  for (NamedTensor& t : bundles_.edge.head->state()) {
    if (t.name.ends_with("bn.bias")) t.tensor.fill(INFINITY);
  }
  write(bundles_, dir_.path());
  refused({}, "is not sent");
}

TEST_F(ServingTest, MeasuresADataSet) {
  DataOptions options;
  options.name = "shapes";
  options.image_size = 16;
  options.limit = 24;
  const Dataset data = load_dataset(options, DataSplit::kTest);
  ASSERT_EQ(data.class_names.size(), 10u);
  start_cloud();
  // As many classes, but other ones: labels would be compared by their place in a list.
  auto other = edge({"--dataset", "shapes", "--limit", "24"});
  EXPECT_EQ(other->wait(), 1);
  for (const std::string& name : {data.class_names[0], bundles_.edge.class_names[0]}) {
    EXPECT_NE(other->err().find(name), std::string::npos) << other->err();
  }
  bundles_.edge.class_names = data.class_names;
  write(bundles_, dir_.path());
  const auto logits = expected_logits(bundles_, images_of(data, 0, 24)).to_vector();
  int correct = 0;
  for (size_t i = 0; i < 24; ++i) correct += best(&logits[i * 10], 10) == data.labels[i];

  auto process = edge({"--dataset", "shapes", "--limit", "24", "--json", "--batch", "16"});
  ASSERT_EQ(process->wait(), 0) << process->err();
  const json result = json::parse(process->out());
  EXPECT_EQ(result["images"], 24);
  EXPECT_EQ(result["correct"], correct);
  EXPECT_NEAR(result["accuracy"].get<double>(), correct / 24.0, 1e-9);
  for (const char* part : {"head", "wire", "queue", "compute", "tail", "total"}) {
    EXPECT_LE(result["latency_ms"][part]["p50"], result["latency_ms"][part]["p95"]) << part;
  }
  EXPECT_GT(result["bytes_per_image"]["sent"], 4 * 16 * 16 * 4);
  EXPECT_GT(result["bytes_per_image"]["received"], 4 * 32 * 4);
  auto readable = edge({"--dataset", "shapes", "--limit", "24"});
  EXPECT_EQ(readable->wait(), 0) << readable->err();
  EXPECT_NE(readable->out().find("of 24 test images right"), std::string::npos);
}

// A bad name costs its own answer; what is wrong with it is said in our words.
TEST_F(ServingTest, ABadNameAmongPicturesDoesNotEndTheOthers) {
  start_cloud();
  std::filesystem::create_symlink("loop", path("loop"));
  std::filesystem::create_directory(path("none"));
  write_png(path("good.png"),
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  auto process = edge({path("loop"), path("none"), path("good.png")});
  EXPECT_EQ(process->wait(), 1);
  EXPECT_NE(process->out().find("good.png"), std::string::npos) << process->err();
  EXPECT_EQ(process->err().find("filesystem error"), std::string::npos) << process->err();
  EXPECT_NE(process->err().find("symbolic links"), std::string::npos) << process->err();
  EXPECT_NE(process->err().find("no image in the folder"), std::string::npos) << process->err();
}

// The rule is the bundle's: one scene as a file, as pixels in memory from C, and as a frame gives
// one answer. Bundles of versions before say nothing; there files were stretched.
TEST_F(ServingTest, OneSceneIsOneAnswerThroughEveryDoor) {
  start_cloud();
  const std::vector<Tensor> squares = test::write_clip(path("clip.avi"), 1, 48, 16);
  Tensor scene = Tensor::empty({3, 16, 48});
  for (int64_t i = 0; i < scene.numel(); ++i) {
    scene.data<float>()[i] = static_cast<float>(i % 48) / 48.0f;
  }
  write_png(path("wide.png"), scene);
  write_png(path("frame.png"), squares[0]);
  write_png(path("square.png"), read_image(path("wide.png"), 3, 16, 16, false, ImageFit::kCrop));
  write_png(path("narrow.png"), read_image(path("wide.png"), 3, 16, 16, false, ImageFit::kStretch));
  const auto answer = [&](const char* file) {
    auto process = edge({"--json", "--resize", path(file)});
    EXPECT_EQ(process->wait(), 0) << process->err();
    return json::parse(process->out())["top"];
  };
  const json crop = answer("square.png"), stretch = answer("narrow.png");
  EXPECT_NE(crop, stretch);
  EXPECT_EQ(answer("wide.png"), stretch);  // this bundle says nothing
  const auto frame = [&] {
    auto process = edge({"--json", path("clip.avi")});
    EXPECT_EQ(process->wait(), 0) << process->err();
    return json::parse(process->out())["top"][0]["probability"].get<double>();
  };
  const double cropped = answer("frame.png")[0]["probability"].get<double>();
  EXPECT_NEAR(frame(), cropped, 5e-3);
  for (const ImageFit fit : {ImageFit::kCrop, ImageFit::kStretch}) {
    bundles_.edge.info.fit = fit;
    write(bundles_, dir_.path());
    EXPECT_EQ(answer("wide.png"), fit == ImageFit::kCrop ? crop : stretch);
    EXPECT_EQ(std::abs(frame() - cropped) < 5e-3, fit == ImageFit::kCrop);
    const Tensor want = read_image(path("wide.png"), 3, 16, 16, false, fit);
    for (const char* door : {"file", "pixels"}) {
      auto process =
          run("c_client", {"bundle: '" + path("edge.h5") + "' cloud: '" + endpoint_ + "'", door,
                           path("wide.png"), path("image.raw")});
      ASSERT_EQ(process->wait(), 0) << process->err();
      std::vector<float> got(static_cast<size_t>(want.numel()));
      std::ifstream(path("image.raw"), std::ios::binary)
          .read(reinterpret_cast<char*>(got.data()), static_cast<std::streamsize>(got.size() * 4));
      if (std::string(door) == "file") {
        EXPECT_EQ(got, want.to_vector());
      }
      // The program draws the columns 0 to 47 with the values 0, 5, 10, ...
      if (std::string(door) == "pixels") {
        EXPECT_NEAR(got[0] * 255, fit == ImageFit::kCrop ? 80 : 5, 3);
      }
    }
  }
}

// ---- videos

// A camera that sends some pictures and then nothing: Ctrl-C does not wait for its time limit.
TEST_F(ServingTest, ASilentStreamEndsAtOnceWhenAsked) {
  start_cloud();
  test::write_clip(path("clip.avi"), 1, 32, 24);
  std::ifstream clip(path("clip.avi"), std::ios::binary);
  const std::string avi{std::istreambuf_iterator<char>(clip), {}};
  const std::string jpeg = avi.substr(avi.find("\xff\xd8"), avi.rfind("\xff\xd9") + 2);
  const test::Listener listener;
  std::jthread camera([&](const std::stop_token& over) {
    const int client = accept(listener.fd(), nullptr, nullptr);
    std::string head =
        "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n";
    for (int i = 0; i < 100 && !over.stop_requested(); ++i) {
      const std::string part = head + "--f\r\nContent-Type: image/jpeg\r\nContent-Length: " +
                               std::to_string(jpeg.size()) + "\r\n\r\n" + jpeg + "\r\n";
      head.clear();
      if (send(client, part.data(), part.size(), MSG_NOSIGNAL) < 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    while (!over.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    close(client);
  });
  auto process = edge({"--json", "http://127.0.0.1:" + std::to_string(listener.port()) + "/x"});
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (process->out().empty() && process->running() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (!process->running()) GTEST_SKIP() << "OpenCV without FFmpeg: " << process->err();
  std::this_thread::sleep_for(std::chrono::seconds(2));  // the pictures are over
  const auto asked = std::chrono::steady_clock::now();
  process->signal(SIGINT);
  EXPECT_EQ(process->wait(), 0) << process->err();
  EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(4));  // busy machines
  EXPECT_NE(process->err().find("frames classified"), std::string::npos) << process->err();
  camera.request_stop();
  shutdown(listener.fd(), SHUT_RDWR);
}

TEST_F(ServingTest, AVideosFramesAreClassifiedAsPicturesAre) {
  start_cloud();
  // Wider than high: the square in the middle counts. JPEG in between: what the frames became.
  const std::vector<Tensor> squares = test::write_clip(path("clip.avi"), 12, 32, 24);
  auto process = edge({"--json", path("clip.avi")});
  ASSERT_EQ(process->wait(), 0) << process->err();
  std::istringstream lines(process->out());
  int64_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json result = json::parse(line);
    ASSERT_EQ(result["frame"], count);
    EXPECT_EQ(result["dropped"], 0);
    ASSERT_EQ(result["top"].size(), 5u);
    write_png(dir_ / "frame.png", squares[static_cast<size_t>(count)]);
    const Tensor picture = read_image(path("frame.png"), 3, 16, 16);
    const auto logits = expected_logits(bundles_, picture.reshape({1, 3, 16, 16})).to_vector();
    const int top = best(logits.data(), 10);
    double sum = 0;
    for (float v : logits) sum += std::exp(v - logits[static_cast<size_t>(top)]);
    EXPECT_EQ(result["top"][0]["index"], top);
    EXPECT_NEAR(result["top"][0]["probability"].get<double>(), 1 / sum, 1e-2);
  }
  EXPECT_EQ(count, 12);
  EXPECT_NE(process->err().find("12 frames classified"), std::string::npos) << process->err();

  auto fewer = edge({"--fps", "5", path("clip.avi")});  // it has 10 a second
  ASSERT_EQ(fewer->wait(), 0) << fewer->err();
  const std::string out = fewer->out();
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 6) << out;
}

TEST_F(ServingTest, WhatIsNoVideoIsSaidInOneLine) {
  start_cloud();
  test::write_clip(path("clip.avi"), 60, 32, 24);
  std::filesystem::resize_file(dir_ / "clip.avi",
                               std::filesystem::file_size(dir_ / "clip.avi") / 2);
  std::ofstream(dir_ / "junk.mp4") << "not a video";
  expect_refused(*edge({path("junk.mp4")}), 1, "not a video that can be played");
  expect_refused(*edge({path("none.mp4")}), 1, "no such video");
  expect_refused(*edge({"--camera", "99"}), 1, "no such camera (/dev/video99)");
  expect_refused(*edge({"--fps", "2", path("a.png")}), 2, "for a video or camera");
  expect_refused(*edge({path("clip.avi"), path("a.png")}), 2, "classified alone");
  auto early = edge({path("clip.avi")});
  EXPECT_EQ(early->wait(), 1);
  EXPECT_NE(early->err().find("ends early: "), std::string::npos) << early->err();
  EXPECT_NE(early->out().find("frame 0 "), std::string::npos);  // what there is, is classified
}

TEST_F(ServingTest, WatchingEndsByASignalAndWithTheCloud) {
  start_cloud();
  test::write_clip(path("clip.avi"), 600, 32, 24);  // a minute
  const auto watch = [&] {
    auto process = edge({"--json", "--live", "--timeout-ms", "500", path("clip.avi")});
    for (int i = 0; i < 600 && process->out().empty(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return process;
  };
  for (const int number : {SIGINT, SIGTERM}) {
    auto process = watch();
    process->signal(number);
    EXPECT_EQ(process->wait(std::chrono::seconds(30)), 0) << process->err();
    EXPECT_NE(process->err().find("frames classified"), std::string::npos) << process->err();
  }
  auto left_alone = watch();
  cloud_->signal(SIGKILL);
  EXPECT_EQ(left_alone->wait(std::chrono::seconds(30)), 1);
  const std::string err = left_alone->err();
  EXPECT_NE(err.find("UNAVAILABLE"), std::string::npos) << err;
  EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
}

// ---- stopping

TEST_F(ServingTest, SigtermDrainsAndEndsWithZero) {
  for (int number : {SIGTERM, SIGINT}) {
    start_cloud();
    EdgeConfig config;
    config.set_bundle(path("edge.h5"));
    if (!endpoint_.empty()) config.set_cloud(endpoint_);
    config.set_timeout_ms(2000);
    config.set_batch(4);
    complete(config);
    const Tensor images = test::random_images(bundles_.edge.info.model, 16, 2);
    const auto want = expected_logits(bundles_, images).to_vector();
    std::atomic<int> answered{0};
    Status last;
    std::jthread client([&] {
      EdgeClient edge(config);
      while (true) {
        const auto result = edge.classify(images);
        if (!result.status.ok()) {
          last = result.status;
          return;
        }
        const auto got = result.value.logits.to_vector();
        for (size_t i = 0; i < want.size(); ++i)
          ASSERT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
        ++answered;
      }
    });
    while (answered < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    cloud_->signal(number);
    EXPECT_EQ(cloud_->wait(), 0) << cloud_->err();
    EXPECT_NE(cloud_->err().find("state=draining"), std::string::npos);
    EXPECT_NE(cloud_->err().find("state=stopped"), std::string::npos);
    client.join();
    EXPECT_EQ(last.code, StatusCode::kUnavailable) << last.str();
  }
}

// The kernel spares the first process of a container the default action of a signal.
TEST_F(ServingTest, ASecondSignalEndsItAtOnceAlsoInAContainer) {
  const Args container = {"/usr/bin/unshare", "--user",      "--map-root-user", "--pid",
                          "--fork",           "--kill-child"};
  for (const Args& before : {Args{}, container}) {
    Args args = before;
    args.push_back("/bin/true");
    if (Process(args, path("probe")).wait() != 0) GTEST_SKIP() << "no namespaces here";
    args.back() = std::string(ENS_BIN_DIR) + "/ensembler-cloud";
    const std::string ready = path("ready" + std::to_string(before.size()));
    args.insert(args.end(), {"--bundle", path("cloud.h5"), "--bind", "tcp://127.0.0.1:*",
                             "--ready-file", ready, "--threads", "1"});
    Process process(args, path("twice"));
    EdgeConfig config = edge_config();
    config.set_cloud(wait_for_file(ready, process));
    ASSERT_NE(config.cloud(), "") << process.err();
    pid_t cloud = process.pid();
    if (!before.empty()) {
      const std::string pid = std::to_string(cloud);
      std::ifstream("/proc/" + pid + "/task/" + pid + "/children") >> cloud;
    }
    ASSERT_GT(cloud, 0);

    // It has something to drain when it wakes up with both signals.
    config.set_batch(256);
    config.set_timeout_ms(2000);
    const Tensor images = test::random_images(bundles_.edge.info.model, 1024, 2);
    std::atomic<bool> stop{false};
    std::jthread client([&] {
      for (EdgeClient edge(config); !stop;) edge.classify(images);
    });
    std::this_thread::sleep_for(std::chrono::seconds(1));
    kill(cloud, SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(cloud, SIGTERM);
    kill(cloud, SIGINT);  // of two that wait, the lower number is taken first
    kill(cloud, SIGCONT);
    EXPECT_EQ(process.wait(std::chrono::seconds(20)), 128 + SIGTERM) << process.err();
    EXPECT_EQ(process.err().find("state=stopped"), std::string::npos) << process.err();
    stop = true;
  }
}

TEST_F(ServingTest, SurvivesSigkillAndRestartInMidTraffic) {
  start_cloud();
  Traffic traffic(edge_config(), bundles_);
  for (int kill = 0; kill < 3; ++kill) {
    traffic.expect_answers(3);
    cloud_->signal(SIGKILL);
    EXPECT_EQ(cloud_->wait(), 128 + SIGKILL);
    start_cloud(endpoint_);
  }
  traffic.expect_answers(1);
  traffic.stop();
}

TEST_F(ServingTest, SighupLoadsTheBundleAgainInMidTraffic) {
  start_cloud();
  {
    Traffic traffic(edge_config(), bundles_);
    for (int i = 0; i < 5; ++i) {
      traffic.expect_answers(2);
      cloud_->signal(SIGHUP);
    }
    traffic.expect_answers(2);
    std::filesystem::resize_file(dir_ / "cloud.h5", 1000);
    cloud_->signal(SIGHUP);
    traffic.expect_answers(3);
    traffic.stop();
  }
  EXPECT_TRUE(cloud_->running());
  // Another training: its own edge is served from now on.
  bundles_ = test::random_bundles(6);
  write(bundles_, dir_.path());
  cloud_->signal(SIGHUP);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!EdgeClient(edge_config()).check().ok() && std::chrono::steady_clock::now() < end) {
  }
  Traffic traffic(edge_config(), bundles_);
  traffic.expect_answers(2);
  traffic.stop();
  cloud_->signal(SIGTERM);
  EXPECT_EQ(cloud_->wait(), 0) << cloud_->err();
}

TEST_F(ServingTest, AProgramInCClassifies) {
  start_cloud();
  const Tensor images = test::random_images(bundles_.edge.info.model, 3, 4);
  std::ofstream(path("images.raw"), std::ios::binary)
      .write(static_cast<const char*>(images.raw()), static_cast<std::streamsize>(images.bytes()));
  const std::string config = "bundle: '" + path("edge.h5") + "' cloud: '" + endpoint_ + "'";
  auto good = run("c_client", {config, "3", path("images.raw"), path("logits.raw"), "reload"});
  ASSERT_EQ(good->wait(), 0) << good->err();
  EXPECT_EQ(good->out(), bundles_.edge.class_names[0] + "\n");
  const auto want = expected_logits(bundles_, images).to_vector();
  std::vector<float> got(want.size());
  std::ifstream(path("logits.raw"), std::ios::binary)
      .read(reinterpret_cast<char*>(got.data()), static_cast<std::streamsize>(got.size() * 4));
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));

  auto typo = run("c_client", {"bundel: 'x'", "3", path("images.raw"), path("logits.raw")});
  EXPECT_EQ(typo->wait(), 1);
  EXPECT_NE(typo->err().find("did you mean 'bundle'?"), std::string::npos) << typo->err();
  auto gone = run("c_client",
                  {"bundle: '" + path("edge.h5") + "' cloud: 'tcp://127.0.0.1:9' timeout_ms: 200",
                   "3", path("images.raw"), path("logits.raw")});
  EXPECT_EQ(gone->wait(), static_cast<int>(StatusCode::kUnavailable));
  EXPECT_NE(gone->err().find("UNAVAILABLE: cannot reach"), std::string::npos) << gone->err();
}

TEST_F(ServingTest, RecordedProbesPassAndAnotherTrainingIsCaught) {
  start_cloud();
  std::filesystem::create_directory(dir_ / "pictures");
  const Tensor images = test::random_images(bundles_.edge.info.model, 5, 8);
  for (int i = 0; i < 5; ++i) {
    write_png(dir_ / "pictures" / ("p" + std::to_string(i) + ".png"),
              images.rows(i, 1).reshape({3, 16, 16}));
  }
  auto record = edge({"--record-probes", path("probes.h5"), path("pictures")});
  ASSERT_EQ(record->wait(), 0) << record->err();
  EXPECT_NE(record->out().find("5 probes"), std::string::npos) << record->out();
  for (const char* dtype : {"float32", "int8"}) {
    EdgeConfig config = edge_config();
    config.set_probes(path("probes.h5"));
    config.set_probe_rate(1);
    config.set_wire_dtype(dtype);
    EdgeClient client(config);
    const auto want = expected_logits(bundles_, images).to_vector();
    for (int i = 0; i < 10; ++i) {
      const auto result = client.classify(images);
      ASSERT_TRUE(result.status.ok()) << dtype << ": " << result.status.str();
      if (std::string(dtype) == "int8") continue;
      const auto got = result.value.logits.to_vector();
      for (size_t k = 0; k < want.size(); ++k) {
        ASSERT_NEAR(got[k], want[k], 1e-3 * (1 + std::abs(want[k])));
      }
    }
  }
}

TEST_F(ServingTest, AStreamAnswersEachSubmissionForItself) {
  start_cloud();
  EdgeConfig config = edge_config();
  EdgeStream stream(config, /*window=*/6);
  const Tensor images = test::random_images(bundles_.edge.info.model, 20, 5);
  const auto want = expected_logits(bundles_, images).to_vector();
  std::vector<std::future<Result<Classified>>> futures;
  std::vector<int64_t> first;
  for (int64_t i = 0, n = 1; i < 20; i += n, n = n % 3 + 1) {  // 1, 2, 3, 1, ... images
    n = std::min<int64_t>(n, 20 - i);
    first.push_back(i);
    futures.push_back(stream.submit(images.rows(i, n)));
  }
  for (const Tensor& wrong :
       {Tensor::zeros({1, 3, 16, 15}), Tensor::full({1, 3, 16, 16}, std::nanf(""))}) {
    EXPECT_EQ(stream.submit(wrong).get().status.code, StatusCode::kInvalidArgument);
  }
  for (size_t k = 0; k < futures.size(); ++k) {
    const auto result = futures[k].get();
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    const auto got = result.value.logits.to_vector();
    EXPECT_EQ(result.value.top.size(), got.size() / 10);
    for (size_t i = 0; i < got.size(); ++i) {
      const float expected = want[static_cast<size_t>(first[k]) * 10 + i];
      EXPECT_NEAR(got[i], expected, 1e-3 * (1 + std::abs(expected)));
    }
  }
}

TEST_F(ServingTest, AStreamWithoutACloudFailsEachFuture) {
  endpoint_ = "tcp://127.0.0.1:9";
  EdgeConfig config = edge_config();
  config.set_timeout_ms(200);
  std::vector<std::future<Result<Classified>>> futures;
  {
    EdgeStream stream(config, 2);
    const Tensor images = test::random_images(bundles_.edge.info.model, 1, 5);
    for (int i = 0; i < 3; ++i) futures.push_back(stream.submit(images));  // the third must wait
  }
  for (auto& future : futures) {
    EXPECT_EQ(future.get().status.code, StatusCode::kUnavailable);
  }
}

TEST_F(ServingTest, ASlowLinkTakesLongerAndIsNeverWrong) {
  start_cloud();
  test::TcpProxy link(endpoint_);
  link.set_rate(200'000);
  const Tensor images = test::random_images(bundles_.edge.info.model, 16, 3);  // 64 KiB up
  const auto want = expected_logits(bundles_, images).to_vector();
  EdgeConfig config = edge_config();
  config.set_cloud(link.endpoint());
  const auto result = EdgeClient(config).classify(images);
  ASSERT_TRUE(result.status.ok()) << result.status.str();
  const auto got = result.value.logits.to_vector();
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
  }
  // A deadline that the link cannot meet: said, not waited for.
  config.set_timeout_ms(60);
  config.set_batch(16);
  EdgeClient hasty(config);
  const Status status = hasty.classify(images).status;
  EXPECT_TRUE(status.code == StatusCode::kDeadlineExceeded ||
              status.code == StatusCode::kUnavailable)
      << status.str();
}

// ---- several clouds

class SeveralCloudsTest : public ServingTest {
 protected:
  // Starts a cloud with those nets and returns its number.
  size_t start(const std::vector<int>& nets, const std::string& bind = "tcp://127.0.0.1:*") {
    const std::string name = "part" + std::to_string(clouds_.size());
    write_part(dir_ / (name + ".h5"), bundles_.cloud, nets);
    clouds_.push_back(run_cloud(name, bind));
    return clouds_.size() - 1;
  }
  struct Cloud {
    std::unique_ptr<Process> process;
    std::string bundle, endpoint;
  };
  Cloud run_cloud(const std::string& bundle, const std::string& bind) {
    const std::string ready = path("ready" + std::to_string(started_));
    Cloud cloud{
        run("ensembler-cloud", {"--bundle", path(bundle + ".h5"), "--bind", bind, "--ready-file",
                                ready, "--set", "dtype=float32", "--threads", "1"}),
        bundle, ""};
    cloud.endpoint = wait_for_file(ready, *cloud.process);
    EXPECT_EQ(cloud.endpoint.rfind("tcp://", 0), 0u) << cloud.process->err();
    return cloud;
  }
  EdgeConfig config_of(const std::vector<std::string>& parts, int timeout_ms = 60000) {
    EdgeConfig config = edge_config();
    config.set_timeout_ms(timeout_ms);
    for (const std::string& part : parts) config.add_part()->set_cloud(part);
    return config;
  }
  const std::string& at(size_t i) const { return clouds_[i].endpoint; }

  std::vector<Cloud> clouds_;
};

TEST_F(SeveralCloudsTest, EachServesItsNetsAndOneIsLostAndReplaced) {
  start({0, 3});
  start({1});
  start({2});
  Traffic traffic(config_of({at(0), at(1), at(2)}), bundles_);
  for (const size_t lost : {1, 0}) {
    traffic.expect_answers(2);
    clouds_[lost].process->signal(SIGKILL);
    clouds_[lost].process->wait();
    clouds_[lost] = run_cloud(clouds_[lost].bundle, at(lost));
  }
  traffic.expect_answers(2);
  traffic.stop();
}

TEST_F(SeveralCloudsTest, TheProgramsDivideAndAsk) {
  auto divide =
      run("ensembler", {"parts", path("cloud.h5"), "--servers", "2", "--out", path("parts")});
  ASSERT_EQ(divide->wait(), 0) << divide->err();
  EXPECT_NE(divide->out().find("part1.h5  networks 0,2 of 4"), std::string::npos) << divide->out();
  const Cloud one = run_cloud("parts/part1", "tcp://127.0.0.1:*");
  const Cloud two = run_cloud("parts/part2", "tcp://127.0.0.1:*");
  write_png(dir_ / "good.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  auto process = run("ensembler-edge", {"--bundle", path("edge.h5"), "--cloud", one.endpoint,
                                        "--cloud", two.endpoint, "--json", path("good.png")});
  ASSERT_EQ(process->wait(), 0) << process->err();
  const Tensor picture = read_image(path("good.png"), 3, 16, 16);
  const auto logits = expected_logits(bundles_, picture.reshape({1, 3, 16, 16})).to_vector();
  EXPECT_EQ(json::parse(process->out())["top"][0]["index"], best(logits.data(), 10));
}

TEST_F(SeveralCloudsTest, ReplicasTakeOver) {
  start({0, 1});
  start({2, 3});
  start({2, 3});
  Traffic traffic(config_of({at(0), at(1) + "," + at(2)}), bundles_);
  traffic.expect_answers(2);
  clouds_[1].process->signal(SIGKILL);
  traffic.expect_answers(3);
  clouds_[1] = run_cloud(clouds_[1].bundle, at(1));
  clouds_[2].process->signal(SIGTERM);  // drains: UNAVAILABLE, then gone
  traffic.expect_answers(3);
  traffic.stop();
}

// Same shapes and fingerprint, other nets: what comes of an operator's slip must be an error.
TEST_F(SeveralCloudsTest, AReplicaOfOtherNetsIsRefusedAndNotMixedUp) {
  start({0, 1});
  start({2, 3});
  start({0, 1});  // passes for a replica of {2, 3}
  EdgeClient client(config_of({at(0), at(1) + "," + at(2)}, 20000));
  const Tensor images = test::random_images(bundles_.edge.info.model, 3, 9);
  ASSERT_TRUE(client.classify(images).status.ok());
  clouds_[1].process->signal(SIGKILL);
  const Status moved = client.classify(images).status;
  EXPECT_EQ(moved.code, StatusCode::kInternal) << moved.str();
  EXPECT_NE(moved.message.find(at(2) + " replied for other nets"), std::string::npos)
      << moved.str();
  const Status again = client.classify(images).status;  // asks what is served
  EXPECT_EQ(again.code, StatusCode::kInvalidArgument) << again.str();
}

// A relay or load balancer takes the connection though no cloud is behind it: no question of keys.
TEST_F(ServingTest, ACloudThatRestartsBehindARelayIsWaitedFor) {
  start_cloud();
  test::TcpProxy relay(endpoint_);
  EdgeConfig config = edge_config();
  config.set_cloud(relay.endpoint());
  config.set_timeout_ms(20000);
  EdgeClient client(config);
  const Tensor images = test::random_images(bundles_.edge.info.model, 3, 9);
  ASSERT_TRUE(client.classify(images).status.ok());
  cloud_->signal(SIGKILL);
  cloud_->wait();
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    start_cloud(endpoint_);
  });
  const Status status = client.classify(images).status;
  EXPECT_TRUE(status.ok()) << status.str();
}

TEST_F(SeveralCloudsTest, WhatDoesNotCoverTheNetsIsRefused) {
  start({0, 1});
  start({1, 2, 3});
  start({2});
  const auto status_of = [&](const std::vector<std::string>& parts) {
    return EdgeClient(config_of(parts, 2000)).check();
  };
  const auto has = [](const Status& status, const std::string& text) {
    return status.message.find(text) != std::string::npos;
  };
  const Status twice = status_of({at(0), at(1)});
  EXPECT_EQ(twice.code, StatusCode::kInvalidArgument);
  EXPECT_TRUE(has(twice, "net 1 is served by " + at(0) + " and by " + at(1))) << twice.str();
  const Status missing = status_of({at(0), at(2)});
  EXPECT_EQ(missing.code, StatusCode::kInvalidArgument);
  EXPECT_TRUE(has(missing, "no cloud serves net 3 of 4")) << missing.str();
  const Status gone = status_of({at(0), "tcp://127.0.0.1:9"});
  EXPECT_EQ(gone.code, StatusCode::kUnavailable) << gone.str();
  EXPECT_TRUE(has(gone, "tcp://127.0.0.1:9")) << gone.str();
  // Alone, a part is not the ensemble.
  EdgeConfig alone = edge_config();
  alone.set_cloud(at(0));
  EXPECT_TRUE(has(EdgeClient(alone).check(), "no cloud serves net 2 of 4"));
}

TEST_F(ServingTest, NarrowFeaturesGiveNearlyTheSameAnswers) {
  start_cloud();
  const Tensor images = test::random_images(bundles_.edge.info.model, 8, 3);
  const auto want = expected_logits(bundles_, images).to_vector();
  double largest = 0;
  for (float v : want) largest = std::max(largest, std::abs(double{v}));
  int64_t sent = std::numeric_limits<int64_t>::max();
  for (const auto& [dtype, tolerance] :
       {std::pair{"float32", 1e-4}, {"float16", 5e-3}, {"int8", 5e-2}}) {
    EdgeConfig config = edge_config();
    config.set_wire_dtype(dtype);
    const auto result = EdgeClient(config).classify(images);
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    const auto got = result.value.logits.to_vector();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance * largest);
    EXPECT_LT(result.value.times.bytes_sent, sent / 10 * 6) << dtype;
    sent = result.value.times.bytes_sent;
  }
  // The same for what comes back; a width that makes the headers small beside it.
  int64_t received = std::numeric_limits<int64_t>::max();
  for (const auto& [dtype, tolerance] :
       {std::pair{"float32", 1e-4}, {"float16", 5e-3}, {"int8", 5e-2}}) {
    EdgeConfig config = edge_config();
    config.set_reply_dtype(dtype);
    const auto result = EdgeClient(config).classify(images);
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    const auto got = result.value.logits.to_vector();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance * largest);
    EXPECT_LT(result.value.times.bytes_received, received / 10 * 9) << dtype;
    received = result.value.times.bytes_received;
  }
}

// ---- names, descriptors, clocks

TEST_F(ServingTest, ANameThatIsNotFoundCostsItsOwnReplicaOnly) {
  start_cloud();
  write_png(dir_ / "a.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  for (const std::string& clouds : {"tcp://no-such-host.invalid:5755," + endpoint_,
                                    endpoint_ + ",tcp://no-such-host.invalid:5755"}) {
    auto process = run("ensembler-edge", {"--bundle", path("edge.h5"), "--insecure", "--cloud",
                                          clouds, path("a.png")});
    EXPECT_EQ(process->wait(std::chrono::seconds(20)), 0) << process->err();
  }
  auto alone =
      run("ensembler-edge", {"--bundle", path("edge.h5"), "--insecure", "--timeout-ms", "1500",
                             "--cloud", "tcp://no-such-host.invalid:5755", path("a.png")});
  EXPECT_EQ(alone->wait(std::chrono::seconds(20)), 1);
  EXPECT_NE(alone->err().find("name"), std::string::npos) << alone->err();
}

// While the video goes on, and when it is over and its last frames wait for a reply.
TEST_F(ServingTest, CtrlCEndsAVideoWhoseCloudIsNotFound) {
  for (const int frames : {60, 2}) {
    test::write_clip(path("clip.avi"), frames, 32, 24);
    auto process = run("ensembler-edge",
                       {"--bundle", path("edge.h5"), "--insecure", "--timeout-ms", "60000",
                        "--cloud", "tcp://no-such-host.invalid:5755", "--live", path("clip.avi")});
    std::this_thread::sleep_for(std::chrono::seconds(2));
    ASSERT_TRUE(process->running()) << process->err();
    const auto asked = std::chrono::steady_clock::now();
    process->signal(SIGINT);
    EXPECT_EQ(process->wait(std::chrono::seconds(20)), 0) << process->err();
    EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(2));
  }
}

int dial(const std::string& endpoint) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

double processor_seconds(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string word;
  double ticks = 0;
  for (int i = 1; i <= 15 && in >> word; ++i) {
    if (i >= 14) ticks += std::stod(word);
  }
  return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

TEST_F(ServingTest, ACloudWithoutDescriptorsSaysSoAndDoesNotSpin) {
  start_cloud();
  const rlimit few{64, 64};
  ASSERT_EQ(::prlimit(cloud_->pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  std::vector<int> strangers;
  for (int i = 0; i < 150; ++i) strangers.push_back(dial(endpoint_));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double before = processor_seconds(cloud_->pid());
  std::this_thread::sleep_for(std::chrono::seconds(2));
  EXPECT_LT(processor_seconds(cloud_->pid()) - before, 0.4) << "a core would be 2 seconds";
  const std::string log = cloud_->err();
  const size_t line = log.find("event=out_of_descriptors");
  ASSERT_NE(line, std::string::npos) << log;
  EXPECT_EQ(log.find("event=out_of_descriptors", line + 1), std::string::npos) << log;
  for (const int fd : strangers) ::close(fd);
  EdgeClient client(edge_config());
  EXPECT_TRUE(client.check().ok()) << "served again";
}

TEST_F(ServingTest, LogTimesAreInUtcWhateverTheZone) {
  ::setenv("TZ", "Asia/Kathmandu", 1);
  start_cloud();
  ::unsetenv("TZ");
  std::string log = cloud_->err();
  log.erase(0, std::min(log.size(), log.rfind('\n', log.find("event=")) + 1));
  std::tm time{};
  const char* end = ::strptime(log.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  ASSERT_TRUE(end) << log;
  EXPECT_LT(std::abs(std::difftime(::timegm(&time), std::time(nullptr))), 60) << log;
  EXPECT_EQ(log.substr(static_cast<size_t>(end - log.c_str()) + 4, 2), "Z ") << log;
}

TEST_F(ServingTest, TheLoadGeneratorTakesKeysAndRefusesNonsense) {
  if (!std::filesystem::exists(std::string(ENS_BIN_DIR) + "/ens-load")) {
    GTEST_SKIP() << "ens-load is not built with -DENS_BENCH=OFF";
  }
  for (const Args& nonsense :
       {Args{"--clients", "0"}, Args{"--batch", "0"}, Args{"--seconds", "-1"},
        Args{"--seconds", "nan"}, Args{"--timeout-ms", "0"}, Args{"--server-key", "only.pub"}}) {
    Args args = {"--cloud", "tcp://127.0.0.1:1"};
    args.insert(args.end(), nonsense.begin(), nonsense.end());
    auto process = run("ens-load", args);
    EXPECT_EQ(process->wait(), 2) << nonsense[0] << process->err();
  }
  for (const char* name : {"cloud", "load"}) write_keys(dir_ / name, new_keys());
  start_cloud("tcp://127.0.0.1:*",
              {"--secret-key", path("cloud.key"), "--clients", path("load.pub")});
  auto process = run("ens-load", {"--cloud", endpoint_, "--server-key", path("cloud.pub"),
                                  "--secret-key", path("load.key"), "--seconds", "0.1"});
  EXPECT_EQ(process->wait(), 0) << process->err();
  EXPECT_NE(process->out().find("capacity:"), std::string::npos);
}

// ---- a model and a key that change

bool comes(const std::function<bool()>& good) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!good() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return good();
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// An edge in the field, which asks again and again and follows its bundle's file.
class Field {
 public:
  Field(EdgeConfig config, Tensor images, std::vector<float> old_logits,
        std::vector<float> new_logits)
      : thread_([this, config = std::move(config), images = std::move(images),
                 wants = std::array{std::move(old_logits), std::move(new_logits)}](
                    const std::stop_token& stop) {
          EdgeClient edge(config);
          while (!stop.stop_requested()) {
            const auto result = edge.classify_latest(images, [](const Status&) {});
            ASSERT_TRUE(result.status.ok()) << result.status.str();
            const auto got = result.value.logits.to_vector();
            const auto is = [&](const std::vector<float>& want) {
              return std::ranges::equal(got, want, [](float a, float b) {
                return std::abs(a - b) <= 1e-3f * (1 + std::abs(b));
              });
            };
            ASSERT_TRUE(is(wants[0]) || is(wants[1])) << "neither model's";
            ++(is(wants[0]) ? old_answers_ : new_answers_);
          }
        }) {}
  int old_answers() const { return old_answers_; }
  int new_answers() const { return new_answers_; }

 private:
  std::atomic<int> old_answers_{0}, new_answers_{0};
  std::jthread thread_;
};

// docs/operations.md, "A new model": every step, under load.
TEST_F(ServingTest, ARollingUpdateLosesNoRequest) {
  namespace fs = std::filesystem;
  for (const char* name : {"models", "edge1", "edge2"}) fs::create_directory(dir_ / name);
  fs::rename(dir_ / "cloud.h5", dir_ / "models/old.h5");
  for (const char* edge : {"edge1", "edge2"}) fs::copy(dir_ / "edge.h5", dir_ / edge / "edge.h5");
  start_cloud("tcp://127.0.0.1:*", {"--set", "bundle=" + path("models")});

  const Tensor images = test::random_images(bundles_.edge.info.model, 6, 2);
  auto next = test::random_bundles(8);
  fs::create_directory(dir_ / "next");
  write(next, dir_ / "next");
  const auto old_logits = expected_logits(bundles_, images).to_vector(),
             new_logits = expected_logits(next, images).to_vector();
  const auto edge_with = [&](const std::string& bundle) {
    EdgeConfig config = edge_config();
    config.set_bundle(path(bundle));
    return std::make_unique<Field>(config, images, old_logits, new_logits);
  };
  const auto first = edge_with("edge1/edge.h5"), second = edge_with("edge2/edge.h5");
  ASSERT_TRUE(comes([&] { return first->old_answers() > 5 && second->old_answers() > 5; }));

  // 1. Both models on the cloud.
  fs::copy(dir_ / "next/cloud.h5", dir_ / "models/new.tmp");
  fs::rename(dir_ / "models/new.tmp", dir_ / "models/new.h5");
  cloud_->signal(SIGHUP);
  ASSERT_TRUE(comes([&] { return count(cloud_->err(), "event=serving") >= 3; })) << cloud_->err();
  // 2. One edge after the other.
  for (const char* edge : {"edge1", "edge2"}) {
    fs::copy(dir_ / "next/edge.h5", dir_ / edge / "new.tmp");
    fs::rename(dir_ / edge / "new.tmp", dir_ / edge / "edge.h5");
    const Field& field = edge == std::string("edge1") ? *first : *second;
    ASSERT_TRUE(comes([&] { return field.new_answers() > 5; })) << edge;
    if (edge == std::string("edge1")) {
      EXPECT_EQ(second->new_answers(), 0) << "the old one goes on";
    }
  }
  // 3. The old model goes.
  fs::remove(dir_ / "models/old.h5");
  cloud_->signal(SIGHUP);
  ASSERT_TRUE(comes([&] { return count(cloud_->err(), "event=retired") == 1; })) << cloud_->err();
  const int before = first->new_answers();
  ASSERT_TRUE(comes([&] { return first->new_answers() > before + 5; }));
  // An edge that was forgotten is told.
  EXPECT_EQ(EdgeClient(edge_config()).check().code, StatusCode::kFingerprintMismatch);
}

// The edge's file may be replaced before the cloud has the model: the old one goes on.
TEST_F(ServingTest, ABundleThatTheCloudDoesNotServeIsNotTakenUp) {
  start_cloud();
  EdgeClient edge(edge_config());
  const Tensor images = test::random_images(bundles_.edge.info.model, 3, 2);
  ASSERT_TRUE(edge.classify(images).status.ok());
  auto next = test::random_bundles(8);
  std::filesystem::create_directory(dir_ / "next");
  write(next, dir_ / "next");
  std::filesystem::rename(dir_ / "next/edge.h5", dir_ / "edge.h5");
  EXPECT_EQ(edge.reload().code, StatusCode::kFingerprintMismatch);
  const auto still = edge.classify(images);
  ASSERT_TRUE(still.status.ok()) << still.status.str();
  EXPECT_NEAR(still.value.logits.to_vector()[0], expected_logits(bundles_, images).to_vector()[0],
              1e-2);
  std::filesystem::rename(dir_ / "next/cloud.h5", dir_ / "cloud.h5");
  cloud_->signal(SIGHUP);
  ASSERT_TRUE(comes([&] { return edge.reload().ok(); }));
  EXPECT_NEAR(edge.classify(images).value.logits.to_vector()[0],
              expected_logits(next, images).to_vector()[0], 1e-2);
  std::ofstream(dir_ / "edge.h5") << "no bundle";
  EXPECT_EQ(edge.reload().code, StatusCode::kInvalidArgument);
  EXPECT_TRUE(edge.classify(images).status.ok());
}

// docs/operations.md, "A new server key".
TEST_F(ServingTest, AServersKeyChangesUnderLoad) {
  for (const char* name : {"cloud", "next", "phone"}) write_keys(dir_ / name, new_keys());
  start_cloud("tcp://127.0.0.1:*",
              {"--secret-key", path("cloud.key"), "--clients", path("phone.pub")});
  const auto with_keys = [&](const std::string& server_key) {
    EdgeConfig config = edge_config();
    config.set_server_key(server_key);
    config.set_secret_key(path("phone.key"));
    return config;
  };
  Traffic traffic(with_keys(path("cloud.pub") + "," + path("next.pub")), bundles_);
  traffic.expect_answers(3);
  std::filesystem::rename(dir_ / "next.key", dir_ / "cloud.key");
  cloud_->signal(SIGHUP);
  ASSERT_TRUE(comes([&] { return count(cloud_->err(), "event=server_key_changed") == 1; }));
  traffic.expect_answers(5);
  traffic.stop();
  const Status renewed = EdgeClient(with_keys(path("next.pub"))).check();
  EXPECT_TRUE(renewed.ok()) << renewed.str();
  EXPECT_EQ(EdgeClient(with_keys(path("cloud.pub"))).check().code, StatusCode::kUnauthenticated);
  const std::string log = cloud_->err();
  EXPECT_NE(log.find("event=connected client=phone"), std::string::npos) << log;
  EXPECT_EQ(log.find(read_public_key(dir_ / "phone.pub")), std::string::npos) << "no key in a log";
}

// ---- refusals: one line, the right code

TEST_F(ServingTest, CloudRefusesBadCommandLines) {
  const auto refused = [&](Args args, int code, const std::string& says) {
    auto process = run("ensembler-cloud", std::move(args));
    SCOPED_TRACE(says);
    expect_refused(*process, code, says);
  };
  std::ofstream(dir_ / "bad.txtpb") << "bundle: 'x'\nmax_bach: 3\n";
  refused({"--nonsense"}, 2, "--nonsense");
  refused({}, 2, "bundle is not set");
  refused({"--threads", "many"}, 2, "--threads");
  refused({"--config", path("bad.txtpb")}, 2, "bad.txtpb:2:");
  refused({"--config", path("bad.txtpb")}, 2, "did you mean 'max_batch'?");
  refused({"--config", path("none.txtpb")}, 1, "none.txtpb");
  refused({"--bundle", "x", "--set", "max_batch=0"}, 2, "max_batch");
  refused({"--bundle", path("cloud.h5"), "--bind", "tcp://0.0.0.0:*"}, 2, "plain text");
  refused({"--bundle", path("none.h5")}, 1, "none.h5");
  refused({"--bundle", path("edge.h5")}, 1, "edge.h5");
  std::filesystem::resize_file(dir_ / "cloud.h5",
                               std::filesystem::file_size(dir_ / "cloud.h5") / 2);
  refused({"--bundle", path("cloud.h5")}, 1, "cloud.h5");
}

TEST_F(ServingTest, EdgeRefusesBadCommandLines) {
  const auto refused = [&](Args args, int code, const std::string& says) {
    auto process = run("ensembler-edge", std::move(args));
    SCOPED_TRACE(says);
    expect_refused(*process, code, says);
  };
  write_png(dir_ / "good.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  const std::string bundle = path("edge.h5"), good = path("good.png");
  refused({"--nonsense"}, 2, "--nonsense");
  refused({"--bundle", bundle}, 2, "nothing to classify");
  refused({good}, 2, "bundle is not set");
  refused({"--bundle", bundle, "--dataset", "shapes", good}, 2, "--dataset");
  refused({"--bundle", bundle, "--limit", "3", good}, 2, "--dataset");
  refused({"--bundle", bundle, "--dataset", "imagenet"}, 2, "imagenet");
  refused({"--bundle", bundle, "--set", "timeout=3", good}, 2, "did you mean 'timeout_ms'?");
  refused({"--bundle", bundle, "--cloud", "tcp://192.0.2.1:5755", good}, 2, "plain text");
  refused({"--bundle", path("none.h5"), good}, 1, "none.h5");
  refused({"--bundle", path("cloud.h5"), good}, 1, "cloud.h5");
  refused({"--bundle", bundle, "--cloud", "tcp://127.0.0.1:9", "--timeout-ms", "300", good}, 1,
          "cannot reach tcp://127.0.0.1:9");
}

TEST_F(ServingTest, BundlesOfDifferentTrainingsAreRefused) {
  start_cloud();
  test::Bundles other = test::random_bundles(6);
  write(other, dir_.path());  // another edge.h5; the cloud has read its own already
  write_png(dir_ / "good.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  auto process = edge({path("good.png")});
  expect_refused(*process, 1, "serves other server nets");
}

TEST_F(ServingTest, AddressInUseIsSaid) {
  start_cloud();
  auto second = run("ensembler-cloud",
                    {"--bundle", path("cloud.h5"), "--bind", endpoint_, "--set", "device=cpu"});
  expect_refused(*second, 1, "another process has this address");
}

TEST_F(ServingTest, KeysWorkBetweenProcesses) {
  write_png(dir_ / "good.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  for (const char* name : {"cloud", "friend", "stranger"}) write_keys(dir_ / name, new_keys());
  start_cloud("tcp://127.0.0.1:*",
              {"--secret-key", path("cloud.key"), "--clients", path("friend.pub")});
  auto good = edge(
      {"--server-key", path("cloud.pub"), "--secret-key", path("friend.key"), path("good.png")});
  EXPECT_EQ(good->wait(), 0) << good->err();
  auto stranger = edge(
      {"--server-key", path("cloud.pub"), "--secret-key", path("stranger.key"), path("good.png")});
  expect_refused(*stranger, 1, "does not allow this client's key");
  auto wrong = edge(
      {"--server-key", path("friend.pub"), "--secret-key", path("friend.key"), path("good.png")});
  expect_refused(*wrong, 1, "--server-key");
  auto plain = edge({path("good.png")});
  expect_refused(*plain, 1, "expects encryption");
  // No secret in any output.
  const std::string secret = read_secret_key(dir_ / "cloud.key").secret_key.z85();
  EXPECT_EQ((cloud_->out() + cloud_->err()).find(secret), std::string::npos);
}

}  // namespace
}  // namespace ens
