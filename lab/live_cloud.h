// SPDX-License-Identifier: Apache-2.0
// How long a cloud takes for one picture, asked for as long as somebody looks: for the studio.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "nn/core/tensor.h"

namespace ens {

struct LiveCloudSettings {
  std::string address;  // of a running ensembler-cloud; empty: one of its own is started
  std::string server_key, secret_key;  // files; empty: none
  bool insecure = false;               // plain text beyond this machine
};

// Thread-safe.
class LiveCloud {
 public:
  struct Percentiles {
    double p50 = 0, p95 = 0;  // milliseconds
  };
  // Of the answers of the last minute.
  struct View {
    Percentiles edge, wire, queue, compute, total;
    int answers = 0;
    double age = -1;      // seconds since the last answer; -1: there has been none
    std::string problem;  // why there is none now; empty: all is well
    bool own = false;     // the cloud was started here
  };

  // `run`: a finished run of split inference; `image` [C, H, W] in [0, 1] is sent twice a second
  // while view() is called at least every five seconds. Never throws for what the cloud does.
  LiveCloud(std::filesystem::path run, LiveCloudSettings settings, const Tensor& image);
  ~LiveCloud();  // also ends a cloud that was started

  View view();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
