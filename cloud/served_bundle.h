// SPDX-License-Identifier: Apache-2.0
// ServedBundle: a cloud bundle, compiled, as it is served now.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "cloud/lanes.h"
#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

// Replaced as a whole when the bundle is loaded again (Frontend::publish); a request keeps the one
// it was checked against until it is replied to. Immutable but for the lanes, which one thread
// uses.
struct ServedBundle {
  // Reads and compiles the file. Error for a bad bundle or device, and for a fingerprint that
  // config.expect_fingerprint does not name.
  ServedBundle(const CloudConfig& config, const std::filesystem::path& file);

  std::string fingerprint_hex() const;  // all 64 digits

  const std::filesystem::path file;
  const FileStamp stamp;  // before it was read
  BundleInfo info;
  std::vector<int> shard;       // which of the N nets are served here
  std::vector<Device> devices;  // over which the nets are spread
  Dtype dtype;
  Shape input, output;  // of one image: the features, one net's output
  int64_t max_request_batch;
  Lanes lanes;

 private:
  ServedBundle(const CloudConfig& config, const std::filesystem::path& file, FileStamp stamp,
               CloudBundle bundle);
};

// All that is served at one time; at least one, each with a fingerprint of its own. Immutable.
class ServedBundles {
 public:
  // Reads what config.bundle names. A bundle of `before` whose file has not changed is taken over.
  // Error if one of them cannot be served, or if there is too little memory for another one.
  explicit ServedBundles(const CloudConfig& config, const ServedBundles* before = nullptr);

  const std::vector<std::shared_ptr<ServedBundle>>& all() const { return bundles_; }
  // Of clients that do not say which: the first of the configuration, in a folder the newest.
  const std::shared_ptr<ServedBundle>& first() const { return bundles_.front(); }
  std::shared_ptr<ServedBundle> find(const std::string& fingerprint) const;  // nullptr: none

 private:
  std::vector<std::shared_ptr<ServedBundle>> bundles_;
};

}  // namespace ens
