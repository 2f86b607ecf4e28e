// SPDX-License-Identifier: Apache-2.0
// Blinded inference: workers compute the linear layers of a whole network.
#include <chrono>

#include "base/error.h"
#include "edge/blinded_layers.h"
#include "edge/session.h"
#include "ensemble/model/blinded_bundle.h"

namespace ens {
namespace {

class BlindedSession : public EdgeSession {
 public:
  BlindedSession(const EdgeConfig& config, const Checkpoint& checkpoint)
      : bundle_(read_blinded_bundle(checkpoint)), layers_(config, bundle_.net) {
    if (!config.probes().empty()) {
      usage_fail("probes are for split inference", "probes",
                 "blinded products are checked (offload.integrity)");
    }
  }

  const BundleInfo& info() const override { return bundle_.info; }
  const std::vector<std::string>& class_names() const override { return bundle_.class_names; }
  Status check() override { return layers_.check(); }
  void cancel() override { layers_.cancel(); }

  Status classify(const Tensor& images, Classified& out) override {
    const auto start = std::chrono::steady_clock::now();
    if (Status status = check_images(images, bundle_.info.model); !status.ok()) return status;
    Tensor logits;
    if (Status status = layers_.run(images, logits, out); !status.ok()) return status;
    out.logits = std::move(logits);
    out.times.total_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return {};
  }

  Status record_probes(const Tensor&, const std::filesystem::path&) override {
    return {StatusCode::kInvalidArgument,
            "probes are for split inference; blinded products are checked"};
  }

 private:
  const BlindedBundle bundle_;
  BlindedLayers layers_;
};

}  // namespace

std::unique_ptr<EdgeSession> open_blinded_session(const EdgeConfig& config,
                                                  const Checkpoint& checkpoint) {
  return std::make_unique<BlindedSession>(config, checkpoint);
}

}  // namespace ens
