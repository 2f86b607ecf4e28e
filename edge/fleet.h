// SPDX-License-Identifier: Apache-2.0
// Fleet: the clouds that together serve the N nets, as one (docs/protocol.md, "Several clouds").
//
// Sends a batch of features to every cloud at once and puts the outputs in the order of the nets.
// One thread at a time.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edge/link.h"
#include "ensemble/model/bundle.h"
#include "proto/config.h"
#include "proto/tensor_codec.h"

namespace ens {

struct EdgeTimes;

// One request to all clouds.
struct PendingBatch {
  int64_t images = 0;
  // [images, C, H, W]; called once, by the thread of the first cloud that is ready for it. Error:
  // they must not be sent.
  std::function<Tensor()> features;
  Tensor outputs;      // [N, images, ...], filled by run()
  Encoded encoded;     // as long as a cloud may need it (again)
  size_t replies = 0;  // clouds that have replied
};

class Fleet {
 public:
  // Opens the links; see Link. `info`: of the edge's bundle. `int8_step` > 0: features are
  // multiples of it and travel as int8, whatever the configuration says.
  Fleet(const EdgeConfig& config, BundleInfo info, float int8_step = 0);
  ~Fleet();

  // Asks every cloud what it serves; together they must serve each net of the bundle once.
  Status check();
  // check(), if no cloud was asked yet, or one has since replied with other nets.
  Status check_if_needed();
  int64_t request_batch() const { return request_batch_; }  // images in a request; after check()

  // All or nothing. Adds to `times`.
  Status run(std::vector<PendingBatch>& batches, EdgeTimes& times);

  std::string addresses() const;
  void cancel();  // see Link; from any thread

 private:
  struct Cloud;

  Status ask_info(Cloud& cloud, int64_t& max_batch);
  Status read_info(Cloud& cloud, const wire::Reply& reply, bool has_tensor, int64_t& max_batch);
  Status check_coverage() const;
  // Runs f for every cloud at once. The first failure in the order of the configuration, if any.
  Status for_each_cloud(const std::function<Status(size_t)>& f);
  Status check_fingerprint(const Cloud& cloud, const wire::Reply& reply) const;
  // A reply's tensor frame -> the cloud's rows of `outputs`.
  Status read_outputs(const Cloud& cloud, const wire::Reply& reply, const WireFrame* frame,
                      Tensor& outputs);

  const EdgeConfig config_;
  const wire::DType wire_dtype_, reply_dtype_;
  const BundleInfo info_;
  const float int8_step_;
  const Shape output_;  // of one net, for one image
  std::vector<std::unique_ptr<Cloud>> clouds_;
  int64_t request_batch_ = 0;             // 0: the clouds have not been asked yet
  std::atomic<bool> check_again_{false};  // what the clouds serve, before the next request
};

}  // namespace ens
