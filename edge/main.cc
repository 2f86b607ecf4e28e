// SPDX-License-Identifier: Apache-2.0
// ensembler-edge: classifies images, a video, a camera or a data set with a remote cloud.
#include <google/protobuf/stubs/logging.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/program.h"
#include "base/statistics.h"
#include "edge/client.h"
#include "edge/options.h"
#include "edge/reload.h"
#include "edge/watch.h"
#include "nn/data/dataset.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "nn/data/video.h"

namespace {

using nlohmann::json;

json to_json(const ens::EdgeTimes& t) {
  return {{"head", t.head_ms},         {"wire", t.wire_ms},
          {"queue", t.cloud_queue_ms}, {"compute", t.cloud_compute_ms},
          {"tail", t.tail_ms},         {"total", t.total_ms}};
}

// What went wrong, and was mended.
void print_warnings(const ens::Classified& result) {
  for (const std::string& warning : result.warnings) {
    std::fprintf(stderr, "ensembler-edge: warning: %s\n", warning.c_str());
  }
}

void require(const ens::Status& status) {
  if (!status.ok()) ens::fail(status.str());
}

ens::Result<ens::Classified> classify(ens::EdgeClient& client, const ens::Tensor& images) {
  if (ens::take_reload_request()) client.request_reload();
  auto result = client.classify_latest(images, &ens::report_reload);
  print_warnings(result.value);
  return result;
}

// ---- images

void print_image(const std::string& file, const ens::Classified& result, bool as_json) {
  const ens::EdgeTimes& t = result.times;
  if (as_json) {
    json top = json::array();
    for (const ens::Ranked& r : result.top[0]) {
      top.push_back({{"index", r.index}, {"label", r.label}, {"probability", r.probability}});
    }
    const json line = {{"file", file},
                       {"top", top},
                       {"times_ms", to_json(t)},
                       {"bytes", {{"sent", t.bytes_sent}, {"received", t.bytes_received}}},
                       {"rounds", t.rounds}};
    std::printf("%s\n", line.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s\n", file.c_str());
    for (const ens::Ranked& r : result.top[0]) {
      std::printf("  %5.1f %%  %s\n", 100.0 * r.probability, r.label.c_str());
    }
    std::printf(
        "  %.1f ms: head %.1f, wire %.1f, queue %.1f, compute %.1f, tail %.1f; "
        "%lld bytes sent, %lld received%s\n",
        t.total_ms, t.head_ms, t.wire_ms, t.cloud_queue_ms, t.cloud_compute_ms, t.tail_ms,
        static_cast<long long>(t.bytes_sent), static_cast<long long>(t.bytes_received),
        t.rounds > 0 ? (", " + std::to_string(t.rounds) + " rounds").c_str() : "");
  }
  ens::flush_output();
}

// The images of one input: those in it, if it is a folder.
std::vector<std::filesystem::path> image_files(const std::filesystem::path& input) {
  std::error_code ignored;  // what is wrong with a file is found when it is read
  if (!std::filesystem::is_directory(input, ignored)) return {input};
  auto found = ens::list_images(input);
  if (found.empty()) ens::fail("no image in the folder", input.string());
  return found;
}

ens::Tensor read_one(const std::filesystem::path& file, const ens::EdgeOptions& options,
                     const ens::BundleInfo& info) {
  const ens::ModelSpec& model = info.model;
  return ens::read_image(file, model.channels, model.image_size, model.image_size, !options.resize,
                         info.fit_of_files());
}

ens::Dataset test_images(const ens::EdgeOptions& options, const ens::EdgeClient& client) {
  const ens::ModelSpec& model = client.info().model;
  ens::DataOptions wanted = options.data;
  wanted.image_size = model.image_size;
  wanted.fit = client.info().fit_of_files();
  ens::Dataset data = ens::load_dataset(wanted, ens::DataSplit::kTest);
  for (const std::string& warning : data.warnings) {
    std::fprintf(stderr, "ensembler-edge: warning: %s\n", warning.c_str());
  }
  if (data.channels != model.channels || data.count() == 0) {
    ens::fail(data.name + " does not fit the bundle: " + std::to_string(data.channels) +
                  " channels, the model has " + std::to_string(model.channels),
              options.config.bundle());
  }
  ens::check_classes(data, client.class_names(), options.config.bundle());
  return data;
}

// Images as one batch.
ens::Tensor stack(const std::vector<ens::Tensor>& images) {
  const ens::Shape one = images[0].shape();
  ens::Tensor all = ens::Tensor::empty(ens::batched(static_cast<int64_t>(images.size()), one));
  for (size_t i = 0; i < images.size(); ++i) {
    all.rows(static_cast<int64_t>(i), 1).copy_from(images[i].reshape(ens::batched(1, one)));
  }
  return all;
}

int record_probes(const ens::EdgeOptions& options, ens::EdgeClient& client) {
  ens::Tensor images;
  if (options.data.name.empty()) {
    std::vector<ens::Tensor> read;
    for (const std::string& input : options.inputs) {
      for (const auto& file : image_files(input)) {
        read.push_back(read_one(file, options, client.info()));
      }
    }
    images = stack(read);
  } else {
    const ens::Dataset data = test_images(options, client);
    images = ens::images_of(
        data, 0, std::min<int64_t>(data.count(), options.data.limit > 0 ? options.data.limit : 32));
  }
  require(client.record_probes(images, options.record_probes));
  std::printf("%s: %lld probes\n", options.record_probes.c_str(),
              static_cast<long long>(images.dim(0)));
  return 0;
}

int classify_images(const ens::EdgeOptions& options, ens::EdgeClient& client) {
  bool connected = false;
  int failures = 0;
  const auto failed = [&](const ens::Error& error) {  // the others may still be good
    std::fprintf(stderr, "ensembler-edge: %s\n", error.what());
    ++failures;
  };
  for (const std::string& input : options.inputs) {
    std::vector<std::filesystem::path> files;
    try {
      files = image_files(input);
    } catch (const ens::Error& error) {
      failed(error);
    }
    for (const auto& file : files) {
      ens::Tensor image;
      try {
        image = read_one(file, options, client.info());
      } catch (const ens::Error& error) {
        failed(error);
        continue;
      }
      // Checked before the first request, so that its time is not part of the first image's.
      if (!std::exchange(connected, true)) require(client.check());
      const auto result = classify(client, image.reshape(ens::batched(1, image.shape())));
      require(result.status);
      print_image(file.string(), result.value, options.as_json);
    }
  }
  return failures == 0 ? 0 : 1;
}

// ---- data sets

int classify_data(const ens::EdgeOptions& options, ens::EdgeClient& client) {
  const ens::Dataset data = test_images(options, client);
  require(client.check());
  constexpr std::array kParts = {"head", "wire", "queue", "compute", "tail", "total"};
  std::map<std::string, std::vector<double>> latency;  // of each request
  int64_t correct = 0, sent = 0, received = 0, rounds = 0, requests = 0;
  double seconds = 0;
  const bool progress = isatty(STDERR_FILENO) != 0;
  const int64_t batch = options.config.batch();
  for (int64_t first = 0; first < data.count(); first += batch) {
    const int64_t count = std::min(batch, data.count() - first);
    const auto result = classify(client, ens::images_of(data, first, count));
    require(result.status);
    const json times = to_json(result.value.times);
    for (const char* part : kParts) latency[part].push_back(times[part]);
    seconds += result.value.times.total_ms / 1000;
    rounds += result.value.times.rounds;
    ++requests;
    sent += result.value.times.bytes_sent;
    received += result.value.times.bytes_received;
    for (int64_t i = 0; i < count; ++i) {
      correct += result.value.top[static_cast<size_t>(i)][0].index ==
                 data.labels[static_cast<size_t>(first + i)];
    }
    if (progress) {
      std::fprintf(stderr, "\r%lld / %lld images, %.2f %% right ",
                   static_cast<long long>(first + count), static_cast<long long>(data.count()),
                   100.0 * static_cast<double>(correct) / static_cast<double>(first + count));
    }
  }
  if (progress) std::fprintf(stderr, "\n");

  const double images = static_cast<double>(data.count());
  const double accuracy = static_cast<double>(correct) / images;
  if (options.as_json) {
    json summary = {
        {"data", data.name},
        {"images", data.count()},
        {"correct", correct},
        {"accuracy", accuracy},
        {"seconds", seconds},
        {"images_per_second", images / seconds},
        {"batch", batch},
        {"wire_dtype", options.config.wire_dtype()},
        {"reply_dtype", options.config.reply_dtype()},
        {"rounds_per_request", static_cast<double>(rounds) / static_cast<double>(requests)},
        {"bytes_per_image",
         {{"sent", static_cast<double>(sent) / images},
          {"received", static_cast<double>(received) / images}}}};
    for (const char* part : kParts) {
      summary["latency_ms"][part] = {{"p50", ens::percentile(latency[part], 0.5)},
                                     {"p95", ens::percentile(latency[part], 0.95)}};
    }
    std::printf("%s\n", summary.dump().c_str());
    return 0;
  }
  std::printf("%s: %lld of %lld test images right, accuracy %.2f %%\n", data.name.c_str(),
              static_cast<long long>(correct), static_cast<long long>(data.count()),
              100.0 * accuracy);
  std::printf("%.0f images/s, %lld per request; bytes per image: %.0f sent, %.0f received\n",
              images / seconds, static_cast<long long>(batch), static_cast<double>(sent) / images,
              static_cast<double>(received) / images);
  if (rounds > 0) {
    std::printf("blinded: %.1f rounds for each request\n",
                static_cast<double>(rounds) / static_cast<double>(requests));
  }
  std::printf("milliseconds per request   p50      p95\n");
  for (const char* part : kParts) {
    std::printf("  %-20s %8.2f %8.2f\n", part, ens::percentile(latency[part], 0.5),
                ens::percentile(latency[part], 0.95));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  google::protobuf::SetLogHandler(nullptr);  // malformed messages of a peer do not belong on stderr
  bool watched = false;
  const int code = ens::run_program("ensembler-edge", argv, [&] {
    const ens::EdgeOptions options = ens::parse_options(argc, argv);
    ens::reload_on_hangup();
    if (!options.inputs.empty() && ens::is_video(options.inputs[0])) {
      watched = true;
      ens::watch(options.inputs[0], options.config, options.watch);
      return 0;
    }
    ens::EdgeClient client(options.config);
    if (!options.record_probes.empty()) return record_probes(options, client);
    return options.data.name.empty() ? classify_images(options, client)
                                     : classify_data(options, client);
  });
  if (watched) {
    // Without destructors of libraries: a reader may still wait there for a silent stream.
    std::fflush(nullptr);
    std::_Exit(code);
  }
  return code;
}
