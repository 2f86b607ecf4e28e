// What the cloud serves at one time: a bundle, compiled.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cloud/lanes.h"
#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

// Replaced as a whole when the bundle is loaded again; a request keeps the one it was checked
// against until it is answered. Immutable but for the lanes, which one thread uses.
struct Serving {
  // Reads and compiles config.bundle. Error for a bad bundle or device.
  explicit Serving(const CloudConfig& config);

  std::string fingerprint_hex() const;  // all 64 digits

  BundleInfo info;
  std::vector<int> part;        // which of the N nets are served here
  std::vector<Device> devices;  // over which the nets are spread
  Dtype dtype;
  Shape input, output;  // of one image: features sent, one net's answer
  int64_t max_request_batch;
  Lanes lanes;

 private:
  Serving(const CloudConfig& config, CloudBundle bundle);
};

}  // namespace ens
