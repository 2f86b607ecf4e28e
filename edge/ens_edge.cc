// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "edge/client.h"
#include "include/ensembler/edge.h"
#include "include/ensembler/version.h"
#include "nn/data/image.h"

using ens::StatusCode;

static_assert(ENS_UNAUTHENTICATED == static_cast<int>(StatusCode::kUnauthenticated));

struct ens_edge {
  explicit ens_edge(const ens::EdgeConfig& config) : client(config) {}
  ens::EdgeClient client;
  ens_edge_times times{};  // of the last classification
};

namespace {

void say(const std::string& text, char* error, size_t size) {
  if (size == 0) return;
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(error, text.data(), length);
  error[length] = '\0';
}

// Runs f, which returns a Status; nothing is thrown on.
template <typename F>
int guarded(char* error, size_t size, F f) {
  try {
    const ens::Status status = f();
    say(status.ok() ? "" : status.message, error, size);
    return static_cast<int>(status.code);
  } catch (const std::exception& e) {
    say(e.what(), error, size);
  } catch (...) {
    say("unknown failure", error, size);
  }
  return ENS_INTERNAL;
}

ens::Status invalid(const char* what) { return {StatusCode::kInvalidArgument, what}; }

// An image that cannot be made is the caller's mistake.
template <typename F>
ens::Status copied(F make, float* image) {
  try {
    const ens::Tensor made = make();
    std::memcpy(image, made.host(), made.bytes());
    return {};
  } catch (const ens::Error& e) {
    return {StatusCode::kInvalidArgument, e.what()};
  }
}

}  // namespace

extern "C" {

const char* ens_edge_version(void) { return ENSEMBLER_VERSION; }

const char* ens_edge_code_name(int code) {
  return ens::name(ens::code_from_wire(static_cast<uint32_t>(code)));
}

ens_edge* ens_edge_open(const char* config_text, char* error, size_t error_size) {
  ens_edge* edge = nullptr;
  guarded(error, error_size, [&]() -> ens::Status {
    if (!config_text) return invalid("no configuration");
    ens::EdgeConfig config;
    ens::parse_config(config_text, "the configuration", config);
    ens::complete(config);
    edge = new ens_edge(config);
    return {};
  });
  return edge;
}

void ens_edge_close(ens_edge* edge) { delete edge; }

void ens_edge_image_shape(const ens_edge* edge, int64_t shape[3]) {
  const ens::Shape one = edge->client.info().model.input_shape();
  for (int axis = 0; axis < 3; ++axis) shape[axis] = one[axis];
}

int ens_edge_classes(const ens_edge* edge) { return edge->client.info().model.classes; }

const char* ens_edge_class_name(const ens_edge* edge, int index) {
  const auto& names = edge->client.class_names();
  if (index < 0 || index >= static_cast<int>(names.size())) return nullptr;
  return names[static_cast<size_t>(index)].c_str();
}

int ens_edge_read_image(const ens_edge* edge, const char* file, float* image, char* error,
                        size_t error_size) {
  return guarded(error, error_size, [&]() -> ens::Status {
    if (!file || !image) return invalid("no file, or no room for the image");
    const ens::BundleInfo& info = edge->client.info();
    return copied(
        [&] {
          return ens::read_image(file, info.model.channels, info.model.image_size,
                                 info.model.image_size, false, info.fit_of_files());
        },
        image);
  });
}

int ens_edge_fit_pixels(const ens_edge* edge, const uint8_t* pixels, int channels, int height,
                        int width, size_t stride, float* image, char* error, size_t error_size) {
  return guarded(error, error_size, [&]() -> ens::Status {
    if (!pixels || !image) return invalid("no pixels, or no room for the image");
    const ens::BundleInfo& info = edge->client.info();
    return copied(
        [&] {
          return ens::fit_image(pixels, channels, height, width, stride, info.model.channels,
                                info.model.image_size, info.model.image_size, info.fit_of_frames());
        },
        image);
  });
}

int ens_edge_check(ens_edge* edge, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { return edge->client.check(); });
}

int ens_edge_reload(ens_edge* edge, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { return edge->client.reload(); });
}

int ens_edge_classify(ens_edge* edge, const float* images, int64_t count, float* logits,
                      char* error, size_t error_size) {
  return guarded(error, error_size, [&]() -> ens::Status {
    if (!images || !logits || count < 1) return invalid("no images, or no room for logits");
    const ens::Shape one = edge->client.info().model.input_shape();
    ens::Tensor batch = ens::Tensor::empty(ens::batched(count, one));
    std::memcpy(batch.host(), images, batch.bytes());
    ens::Result<ens::Classified> result = edge->client.classify(batch);
    if (result.status.ok()) {
      std::memcpy(logits, result.value.logits.host(), result.value.logits.bytes());
      const ens::EdgeTimes& t = result.value.times;
      edge->times = {t.total_ms,       t.head_ms,          t.wire_ms,
                     t.cloud_queue_ms, t.cloud_compute_ms, t.tail_ms,
                     t.bytes_sent,     t.bytes_received,   t.rounds};
    }
    return result.status;
  });
}

int ens_edge_top(const ens_edge* edge, const float* logits, int k, ens_edge_ranked* top,
                 char* error, size_t error_size) {
  return guarded(error, error_size, [&]() -> ens::Status {
    if (!logits || !top) return invalid("no logits, or no room for the classes");
    const std::vector<std::string>& names = edge->client.class_names();
    if (k < 1 || static_cast<size_t>(k) > names.size()) {
      return invalid("k is not between 1 and the number of classes");
    }
    const std::span all(logits, names.size());
    if (!std::ranges::all_of(all, [](float v) { return std::isfinite(v); })) {
      return invalid("a logit is not finite");
    }
    for (const ens::Ranked& r : ens::top_classes(all, static_cast<size_t>(k), names)) {
      *top++ = {r.index, r.probability};
    }
    return {};
  });
}

void ens_edge_last_times(const ens_edge* edge, ens_edge_times* times, size_t times_size) {
  std::memset(times, 0, times_size);
  std::memcpy(times, &edge->times, std::min(times_size, sizeof edge->times));
}

}  // extern "C"
