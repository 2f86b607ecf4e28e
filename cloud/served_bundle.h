// ServedBundle: a cloud bundle, compiled, as it is served now.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cloud/lanes.h"
#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

// Replaced as a whole when the bundle is loaded again (Frontend::publish); a request keeps the one
// it was checked against until it is replied to. Immutable but for the lanes, which one thread
// uses.
struct ServedBundle {
  // Reads and compiles config.bundle. Error for a bad bundle or device.
  explicit ServedBundle(const CloudConfig& config);

  std::string fingerprint_hex() const;  // all 64 digits

  BundleInfo info;
  std::vector<int> shard;       // which of the N nets are served here
  std::vector<Device> devices;  // over which the nets are spread
  Dtype dtype;
  Shape input, output;  // of one image: the features, one net's output
  int64_t max_request_batch;
  Lanes lanes;

 private:
  ServedBundle(const CloudConfig& config, CloudBundle bundle);
};

}  // namespace ens
