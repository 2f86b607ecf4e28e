// SPDX-License-Identifier: Apache-2.0
// WholeNetClient: classify with a cloud that has the whole network (h = t = 0). What is sent is
// what it is given: disguised images, never plain ones (docs/disguise.md).
#pragma once

#include "edge/client.h"
#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

class Fleet;

// One thread at a time.
class WholeNetClient {
 public:
  // `info`: of the network's bundle, with config.bundle for messages. Error for a bad key file, for
  // plain text outside loopback, and unless the split is h = t = 0.
  WholeNetClient(const EdgeConfig& config, const BundleInfo& info);
  ~WholeNetClient();

  // inputs [B, ...] float32 of the shape that the network reads, finite, B >= 1 -> logits [B,
  // classes]. All or nothing; the codes of EdgeClient::classify(). Adds to `times`.
  Result<Tensor> classify(const Tensor& inputs, EdgeTimes& times);

 private:
  const BundleInfo info_;
  const std::unique_ptr<Fleet> fleet_;
};

}  // namespace ens
