// What a worker makes of a request, without its socket: layers by their hash, and products of
// shares.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "nn/core/int8_layer.h"
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
  // empty: none.
  Jobs(Device device, int64_t max_weights, std::filesystem::path record);

  // header, frame: any bytes of anybody; frames: how many the message had. Never throws; every
  // claim is checked before memory is taken for it.
  JobReply reply(std::span<const std::byte> header, std::span<const std::byte> frame, int frames);

 private:
  Status load(const offload::Layer& layer, std::span<const std::byte> frame, int frames);
  Status run(const offload::Job& job, std::span<const std::byte> frame, int frames,
             JobReply& reply);
  void record(const offload::Job& job, const Tensor& share) const;

  const Device device_;
  const int64_t max_weights_;
  const std::filesystem::path record_;
  int64_t weights_ = 0;                      // bytes
  std::map<std::string, Int8Layer> layers_;  // by hash, on the device
  mutable int64_t recorded_ = 0;             // the number of the latest file
};

}  // namespace ens
