#include "cloud/serving.h"

#include <utility>

#include "ensemble/model/precision.h"
#include "nn/core/backend.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

// Trainings run in float32 or bfloat16; serving knows float16, too, on devices that have it, and
// bfloat16 weights.
Dtype serving_dtype(const std::string& text, Device device) {
  const Backend& here = backend(device);
  if (text == name(Dtype::kF16) && here.supports(Dtype::kF16)) return Dtype::kF16;
  const bool half = text == "auto" || text == name(Dtype::kBF16);
  if (half && here.serves(Dtype::kBF16)) return Dtype::kBF16;
  return choose_dtype(text, device);
}

}  // namespace

Serving::Serving(const CloudConfig& config) : Serving(config, read_cloud_bundle(config.bundle())) {}

// The plans hold their own copies of the weights: the bundle's bodies go with it.
Serving::Serving(const CloudConfig& config, CloudBundle bundle)
    : info(bundle.info),
      part(bundle.part),
      devices(parse_devices(config.device())),
      dtype(serving_dtype(config.dtype(), devices[0])),
      input(smashed_shape(info.model, info.split)),
      output(answer_shape(info.model, info.split)),
      max_request_batch(config.max_request_batch()),
      lanes(std::move(bundle), devices, dtype, config.max_batch(), config.threads()) {}

std::string Serving::fingerprint_hex() const { return to_hex(info.fingerprint); }

}  // namespace ens
