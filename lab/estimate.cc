// SPDX-License-Identifier: Apache-2.0
#include "lab/estimate.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "attacks/core/decoder.h"
#include "attacks/split/registry.h"
#include "base/threads.h"
#include "ensemble/model/precision.h"
#include "ensemble/protect/adversary_train.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"
#include "lab/datasets.h"
#include "lab/scenarios/split_attacks.h"
#include "nn/core/backend.h"
#include "proto/protections.h"

namespace ens {
namespace {

// Seconds an image of forward, backward and update: the best of three steps after a first one.
double time_step(Module& net, const Tensor& input, const std::function<Var(const Var&)>& loss) {
  OptimSpec spec;
  spec.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(net.parameters(), spec);
  double best = 1e30;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loss(net.forward(Var(input))).backward();
    optimizer.step(1e-6f);
    backend(input.device()).synchronize();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i > 0) best = std::min(best, took.count());
  }
  return best / static_cast<double>(input.dim(0));
}

double gigabytes_of(const Graph& graph, const RunConfig& config) {
  double activations = 0;
  for (const Shape& value : graph.values) activations += static_cast<double>(value.numel());
  // Values and gradients, with scratch beside them; weights with gradient and optimiser state.
  return (activations * config.stage1().batch() * 3 * 4 +
          static_cast<double>(graph.parameters()) * 4 * (4 + config.ensemble().nets())) /
         1e9;
}

}  // namespace

Estimator::Speed Estimator::measure(const RunConfig& config, const ModelSpec& spec, Module& net,
                                    Rng& rng) {
  const Shape smashed = smashed_shape(spec, split_of(config));
  const int64_t batch = std::min<int64_t>(config.stage1().batch(), 64);
  const Device device = parse_devices(config.device())[0];
  const Dtype dtype = choose_dtype(config.dtype(), device);
  const int threads = compute_threads();
  set_compute_threads(1);
  Speed speed;
  const Tensor labels =
      Tensor::from_labels(std::vector<int32_t>(static_cast<size_t>(batch), 0)).to(device);
  const Tensor images = Tensor::full(batched(batch, spec.input_shape()), 0.5f).to(device);
  speed.net = time_step(net, images.to(dtype),
                        [&](const Var& y) { return softmax_cross_entropy(y, labels); });
  if (smashed.rank() == 3) {
    const Tensor features = Tensor::full(batched(batch, smashed), 0.5f).to(device).to(dtype);
    const DecoderConfig& wanted = config.attack().decoder();
    Decoder decoder(smashed, spec.input_shape(), {wanted.channels(), wanted.blocks()}, rng);
    decoder.to(device);
    speed.decoder = time_step(decoder, features, [&](const Var& y) {
      return decoder_loss(parse_decoder_loss(wanted.loss()), y, images);
    });
    FeatureAdversary adversary(smashed, spec.input_shape(), 1, rng, device);
    speed.adversary =
        time_step(adversary.net(), features, [&](const Var& y) { return mse(y, Var(images)); });
  }
  set_compute_threads(threads);
  return speed;
}

Estimator::Cell Estimator::estimate(const RunConfig& config,
                                    const std::vector<std::string>& attacks) {
  const auto train = shared_dataset(config, DataPart::kTrain);
  const ModelSpec spec = model_spec(config, *train);
  const Split split = split_of(config);
  check(spec, split);
  Speed& speed =
      measured_[to_text(config.model()) + to_text(config.attack().decoder()) + train->name];
  Rng rng = speed.net == 0 ? Rng(1) : Rng::blank();  // else only its shapes are asked for
  const auto net = build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
  net->to(parse_devices(config.device())[0]);
  if (speed.net == 0) speed = measure(config, spec, *net, rng);

  Cell cell;
  const double images = static_cast<double>(train->count());
  const int nets = config.ensemble().nets();
  const auto protection = make_protection_training(config);
  const bool joint = trains_jointly(config);
  cell.stage1_per_image = speed.net * (joint ? nets : 1) + speed.adversary * protection->decoders();
  cell.stage1_seconds =
      images * config.stage1().epochs() * cell.stage1_per_image * (joint ? 1 : nets);
  // Through frozen bodies: no gradients of their weights.
  cell.stage2_per_image = speed.net * 0.7 * protection->nets_in_stage2(config);
  cell.stage2_seconds = images * config.stage2().epochs() * cell.stage2_per_image;

  const AttackConfig& settings = config.attack();
  SplitSetting setting;
  setting.model = spec;
  setting.split = split;
  setting.nets = nets;
  setting.selected = config.ensemble().selected();
  const auto set_aside = shared_dataset(config, DataPart::kPublic);
  setting.public_images =
      std::min(shared_dataset(config, public_part(settings))->count(), settings.public_images());
  setting.training_images = train->count() + set_aside->count();
  setting.scored_images = settings.one_per_class()
                              ? std::min<int64_t>(spec.classes, settings.scored_images())
                              : settings.scored_images();
  const Shape sent = smashed_shape(spec, split);
  double traffic_gb = 0;
  for (const std::string& name : attacks) {
    const auto attack = make_attack(name);
    if (!attack->not_applicable_reason(setting).empty()) continue;
    Attack& a = cell.attacks[name];
    const AttackCost cost = attack->cost(setting, settings);
    const double once = speed.net * static_cast<double>(cost.nets) +
                        speed.decoder * static_cast<double>(cost.decoders);
    a.seconds = once * seeds_of(*attack, settings);
    a.seconds_per_image = once / static_cast<double>(std::max<int64_t>(cost.images(), 1));
    if (dynamic_cast<const AttackOn<TrafficView>*>(attack.get())) {
      traffic_gb =
          std::min(1.0, static_cast<double>(settings.observed_features() * sent.numel() * 4) / 1e9);
    }
  }

  cell.gigabytes = 0.2 + traffic_gb + gigabytes_of(lower(*net, spec.input_shape()), config);
  return cell;
}

}  // namespace ens
