// SPDX-License-Identifier: Apache-2.0
// A bundle in use, with the clouds or workers that it needs: how images become logits. One
// implementation for each kind of bundle: split inference (client.cc), blinded inference
// (blinded.cc).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "edge/client.h"
#include "ensemble/model/bundle.h"
#include "nn/io/checkpoint.h"
#include "proto/config.h"

namespace ens {

// One thread at a time, but for cancel().
class EdgeSession {
 public:
  virtual ~EdgeSession() = default;
  virtual const BundleInfo& info() const = 0;
  virtual const std::vector<std::string>& class_names() const = 0;
  virtual Status check() = 0;  // what the other side serves; see EdgeClient
  // Fills out.logits, times and warnings. All or nothing.
  virtual Status classify(const Tensor& images, Classified& out) = 0;
  virtual Status record_probes(const Tensor& images, const std::filesystem::path& file) = 0;
  virtual void cancel() = 0;  // from any thread, for good
};

// Of the bundle's file as it was read. Error for a bad bundle or key file, and for plain text
// outside loopback.
std::unique_ptr<EdgeSession> open_split_session(const EdgeConfig& config,
                                                const Checkpoint& checkpoint);
std::unique_ptr<EdgeSession> open_blinded_session(const EdgeConfig& config,
                                                  const Checkpoint& checkpoint);

}  // namespace ens
