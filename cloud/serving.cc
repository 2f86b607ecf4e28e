#include "cloud/serving.h"

#include "nn/core/backend.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

Dtype serving_dtype(const std::string& text, Device device) {
  if (text != "auto") return parse_dtype(text);
  return backend(device).supports(Dtype::kBF16) ? Dtype::kBF16 : Dtype::kF32;
}

}  // namespace

Serving::Serving(const CloudConfig& config) : Serving(config, read_cloud_bundle(config.bundle())) {}

// The plans hold their own copies of the weights: the bundle's bodies go with it.
Serving::Serving(const CloudConfig& config, const CloudBundle& bundle)
    : info(bundle.info),
      part(bundle.part),
      devices(parse_devices(config.device())),
      dtype(serving_dtype(config.dtype(), devices[0])),
      input(smashed_shape(info.model, info.split)),
      output(answer_shape(info.model, info.split)),
      max_request_batch(config.max_request_batch()),
      lanes(bundle, devices, dtype, config.max_batch(), config.threads()) {}

std::string Serving::fingerprint_hex() const { return to_hex(info.fingerprint); }

}  // namespace ens
