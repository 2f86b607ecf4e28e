// SPDX-License-Identifier: Apache-2.0
// What a worker makes of a request, without its socket: layers by their hash, and products of
// shares.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "nn/core/int8_layer.h"
#include "offload/core/seed.h"
#include "proto/offload.pb.h"
#include "proto/status.h"

namespace ens {

struct JobReply {
  offload::Reply header;
  Tensor tensor;  // undefined: header only
};

// One thread at a time.
class Jobs {
 public:
  // max_weights: bytes that are kept. record: a folder for every share, made if it is not there;
  // empty: none. secret: the worker's key (X25519), for shares that are sealed for it.
  Jobs(Device device, int64_t max_weights, std::filesystem::path record,
       std::optional<Seed> secret = std::nullopt);

  // header, frame: any bytes of anybody; frames: how many the message had. Never throws; every
  // claim is checked before memory is taken for it.
  JobReply reply(std::span<const std::byte> header, std::span<const std::byte> frame, int frames);
  int64_t weight_bytes() const { return weights_; }  // that are kept

 private:
  Status load(const offload::Layer& layer, std::span<const std::byte> frame, int frames);
  // A job whose frames are sealed.
  Status run_sealed(const offload::Job& job, std::span<const std::byte> frame, int frames,
                    JobReply& reply);
  Status run(const offload::Job& job, std::span<const std::byte> frame, int frames,
             JobReply& reply);
  void record(const offload::Job& job, const Tensor& share) const;

  const Device device_;
  const int64_t max_weights_;
  const std::filesystem::path record_;
  const std::optional<Seed> secret_;
  int64_t weights_ = 0;                      // bytes
  std::map<std::string, Int8Layer> layers_;  // by hash, on the device
  mutable int64_t recorded_ = 0;             // the number of the latest file
};

}  // namespace ens
