// EdgeClient: classify images with a remote cloud.
//
//   ens::EdgeConfig config;                 // proto/config.proto; complete() fills the defaults
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
#include <memory>
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

// Where the time of one call went, milliseconds, and what travelled.
struct EdgeTimes {
  double head_ms = 0, wire_ms = 0, cloud_queue_ms = 0, cloud_compute_ms = 0, tail_ms = 0;
  double total_ms = 0;  // wire = round trip minus what the cloud reports for itself
  int64_t bytes_sent = 0, bytes_received = 0;
};

struct Classified {
  std::vector<std::vector<Ranked>> top;  // per image: up to five, best first
  Tensor logits;                         // [B, classes]
  EdgeTimes times;
};

class EdgeClient {
 public:
  // Reads the bundle, opens the socket (connecting happens in the background). Error for a bad
  // bundle or key file, and for a plain-text address outside loopback.
  explicit EdgeClient(const EdgeConfig& config);
  ~EdgeClient();

  // Asks the cloud what it serves and checks protocol version, fingerprint, N and shapes.
  Status check();
  // Any number of images; split into requests of config.batch, sent with a small window.
  Result<Classified> classify(const Tensor& images);
  const BundleInfo& info() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
