#include "cloud/served_bundle.h"

#include <utility>

#include "base/error.h"
#include "base/strings.h"
#include "ensemble/model/precision.h"
#include "nn/core/backend.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

// Trainings run in float32 or bfloat16. A cloud can also compute in float16 and float8 on devices
// that have them, and with bfloat16 weights. Float8 needs a calibrated bundle and is used only if
// asked for.
Dtype serving_dtype(const CloudConfig& config, const CloudBundle& bundle, Device device) {
  const std::string& text = config.dtype();
  const Backend& here = backend(device);
  if (text == name(Dtype::kF8)) {
    if (!here.serves(Dtype::kF8)) {
      usage_fail("float8 needs an NVIDIA GPU of compute capability 8.9 or newer, which " +
                     device.str() + " is not",
                 "dtype", "use auto, float32 or bfloat16, on older GPUs float16");
    }
    if (bundle.ranges.empty()) {
      usage_fail("the server nets are not calibrated for float8", config.bundle(),
                 "run `ensembler calibrate RUN` first");
    }
    return Dtype::kF8;
  }
  if (text == name(Dtype::kF16) && here.supports(Dtype::kF16)) return Dtype::kF16;
  const bool half = text == "auto" || text == name(Dtype::kBF16);
  if (half && here.serves(Dtype::kBF16)) return Dtype::kBF16;
  return choose_dtype(text, device);
}

}  // namespace

ServedBundle::ServedBundle(const CloudConfig& config)
    : ServedBundle(config, read_cloud_bundle(config.bundle())) {}

// The plans hold their own copies of the weights: the bundle's bodies go with it.
ServedBundle::ServedBundle(const CloudConfig& config, CloudBundle bundle)
    : info(bundle.info),
      shard(bundle.part),
      devices(parse_devices(config.device())),
      dtype(serving_dtype(config, bundle, devices[0])),
      input(smashed_shape(info.model, info.split)),
      output(body_output_shape(info.model, info.split)),
      max_request_batch(config.max_request_batch()),
      lanes(std::move(bundle), devices, dtype, config.max_batch(), config.threads()) {}

std::string ServedBundle::fingerprint_hex() const { return to_hex(info.fingerprint); }

}  // namespace ens
