// SPDX-License-Identifier: Apache-2.0
// EdgeClient: classify images with a remote cloud.
//
//   ens::EdgeConfig config;                 // docs/config.md; complete() fills the defaults
//   config.set_bundle("edge.h5");
//   config.set_cloud("tcp://cloud.example:5755");
//   ens::complete(config);
//   ens::EdgeClient client(config);
//   ens::Result<ens::Classified> r = client.classify(images);   // [B, 3, 32, 32] in [0, 1]
//   if (!r.status.ok()) ...
//   for (auto& top : r.value.top) use(top[0].label, top[0].probability);
//
// One thread at a time per client; several clients may run side by side.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edge/pipeline.h"
#include "proto/config.h"
#include "proto/status.h"

namespace ens {

template <typename T>
struct Result {
  Status status;
  T value{};
};

struct Ranked {
  int index = 0;
  std::string label;
  float probability = 0;
};

// The k most probable classes (or all, if they are fewer), best first; probabilities by softmax.
// logits: finite, one for each name.
std::vector<Ranked> top_classes(std::span<const float> logits, size_t k,
                                const std::vector<std::string>& names);

// Where the time of one call went, in milliseconds, and how much was sent. With several requests in
// one call these are sums over requests that overlap, so their sum exceeds total_ms.
struct EdgeTimes {
  double head_ms = 0, wire_ms = 0, cloud_queue_ms = 0, cloud_compute_ms = 0, tail_ms = 0;
  double total_ms = 0;  // wire = round trip minus what the cloud reports for itself
  int64_t bytes_sent = 0, bytes_received = 0;
  // Blinded inference: requests that waited for each other. There `head` is all that the device
  // computes itself but for checking and decoding products, which is `tail`; compute is that of the
  // slowest worker of each round.
  int64_t rounds = 0;
};

struct Classified {
  std::vector<std::vector<Ranked>> top;  // per image: up to five, best first
  Tensor logits;                         // [B, classes]
  EdgeTimes times;
  std::vector<std::string>
      warnings;  // blinded inference: workers that failed or lied, and were replaced
};

class EdgeClient {
 public:
  // Reads the bundle, opens the socket (connecting happens in the background). Error for a bad
  // bundle or key file, and for a plain-text address outside loopback.
  explicit EdgeClient(const EdgeConfig& config);
  ~EdgeClient();

  // Asks the clouds what they serve and checks protocol version, fingerprint, N and shapes. The
  // first classify() does so by itself.
  Status check();
  // images [B, C, H, W] float32 in [0, 1], any B >= 1: split into requests of config.batch, two of
  // which are pending at a time. All or nothing. Never throws for what the cloud or the network
  // does. Codes: UNAVAILABLE (not reachable, went away), UNAUTHENTICATED (keys), DEADLINE_EXCEEDED,
  // RESOURCE_EXHAUSTED (busy all the time), FINGERPRINT_MISMATCH, VERSION_MISMATCH, INTERNAL
  // (outputs of the wrong shape, with elements that are not finite, or wrong for a probe),
  // INVALID_ARGUMENT (`images`, or clouds that together do not serve each net once).
  Result<Classified> classify(const Tensor& images);

  // Asks a cloud that is trusted, and writes features and outputs as probes for EdgeConfig.probes.
  // images as classify()'s. Error if the file cannot be written.
  Status record_probes(const Tensor& images, const std::filesystem::path& file);

  // Reads the bundle's file again. It replaces the one in use once the clouds are found to serve
  // it; otherwise, and if its images or classes are other ones in number or shape, that one stays.
  Status reload();
  // The same if the file has changed since it was read; looks at most twice a second, or `now`.
  // Nothing: it has not.
  std::optional<Status> reload_if_changed(bool now = false);
  // The next reload_if_changed() reloads. Async-signal-safe.
  void request_reload();
  // classify(), with the bundle that is in the file. on_reload is told how reloads end.
  Result<Classified> classify_latest(const Tensor& images,
                                     const std::function<void(const Status&)>& on_reload);

  // From any thread, for good: calls that are under way, and later ones, end with UNAVAILABLE.
  void cancel();

  const BundleInfo& info() const;  // both until the next reload
  const std::vector<std::string>& class_names() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
