// SPDX-License-Identifier: Apache-2.0
#include "ensemble/train/context.h"

#include "ensemble/model/precision.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"

namespace ens {

TrainingContext::TrainingContext(const RunConfig& c, RunDir& r, const Dataset& training,
                                 const Dataset& testing)
    : config(c),
      run(r),
      train(training),
      test(testing),
      quick_test(testing.head(kQuickTest)),
      spec(model_spec(c, training)),
      split(split_of(c)),
      protection(make_protection_training(c)),
      devices(devices_for(c)),
      device(devices[0]),
      dtype(choose_dtype(c.dtype(), device)),
      check_stop(stop_check()) {
  check(spec, split);
}

Loader TrainingContext::loader(const TrainConfig& stage, uint64_t data_seed, Device where) const {
  LoaderOptions options;
  options.batch = stage.batch();
  options.crop_padding = config.data().crop_padding();
  options.flip = config.data().flip();
  options.seed = data_seed;
  options.device = where;
  return Loader(train, options);
}

int64_t TrainingContext::images_in(const TrainConfig& stage) const {
  return int64_t{stage.epochs()} * (train.count() / stage.batch()) * stage.batch();
}

Rng TrainingContext::secret_rng(const std::string& stream) const {
  if (config.ensemble().insecure_seeded_secrets()) return Rng(config.seed(), stream);
  return Rng(secure_random(), secure_random());
}

}  // namespace ens
