#include "cloud/serving.h"

#include <utility>

#include "ensemble/model/precision.h"
#include "nn/io/checkpoint.h"

namespace ens {
Serving::Serving(const CloudConfig& config) : Serving(config, read_cloud_bundle(config.bundle())) {}

// The plans hold their own copies of the weights: the bundle's bodies go with it.
Serving::Serving(const CloudConfig& config, CloudBundle bundle)
    : info(bundle.info),
      part(bundle.part),
      device(parse_device(config.device())),
      dtype(choose_dtype(config.dtype(), device)),
      input(smashed_shape(info.model, info.split)),
      output(answer_shape(info.model, info.split)),
      max_request_batch(config.max_request_batch()),
      lanes(std::move(bundle), device, dtype, config.max_batch(), config.threads()) {}

std::string Serving::fingerprint_hex() const { return to_hex(info.fingerprint); }

}  // namespace ens
