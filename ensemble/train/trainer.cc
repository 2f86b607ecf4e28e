// SPDX-License-Identifier: Apache-2.0
#include "ensemble/train/trainer.h"

#include <algorithm>
#include <chrono>

#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/channel.h"
#include "ensemble/protect/distance_train.h"
#include "ensemble/train/protection_training.h"
#include "proto/protections.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// How much of the picture is in what is sent, and Shredder's SNR = E[a^2] / Var(n), on the first
// test images: 500, or fewer where features are large.
void measure_features(const TrainingContext& context, TrainingResult& trained,
                      results::RunSummary& summary) {
  constexpr int64_t kImages = 500, kMostNumbers = int64_t{1} << 26;
  const int64_t n = std::min({kImages, context.test.count(),
                              std::max<int64_t>(4, kMostNumbers / context.feature().numel())});
  if (n < 4) return;
  Tensor features =
      plan_features(*trained.head, context.spec, context.test, n, context.device, context.dtype);
  const Tensor* noises = find_values(trained.protection, "noise_bank");
  const Tensor* factors = find_values(trained.protection, "factor_bank");
  if (noises || factors) {
    double power = 0, variance = 0;
    for (float a : features.span<float>()) power += double{a} * a;
    power /= static_cast<double>(features.numel());
    const Tensor& bank = noises ? *noises : *factors;
    for (int64_t k = 0; k < bank.dim(0); ++k) {
      double sum = 0, squares = 0;
      for (float v : bank.rows(k, 1).span<float>()) {
        sum += v;
        squares += double{v} * v;
      }
      const auto size = static_cast<double>(bank.numel() / bank.dim(0));
      variance += squares / size - (sum / size) * (sum / size);
    }
    variance /= static_cast<double>(bank.dim(0));
    // Multiplied, the noise is as large as the feature: E[(a n)^2] = E[a^2] E[n^2] where they are
    // independent.
    trained.snr = noises ? power / variance : 1 / variance;
  }
  make_protection(trained.protection)->apply(features);
  summary.set_distance_correlation(
      unbiased_distance_correlation(images_of(context.test, 0, n), features));
}

// What each of several nets adds, on the test images, or as many as 512 MiB of outputs allow.
void measure_nets(const TrainingContext& context, const TrainingResult& trained,
                  results::RunSummary& summary) {
  const std::vector<int>& selected = trained.selector.selected();
  if (selected.size() < 2) return;
  std::vector<std::shared_ptr<Sequential>> used;
  for (int i : selected) used.push_back(trained.bodies[static_cast<size_t>(i)]);
  const int64_t elements =
      body_output_shape(context.spec, context.split).numel() * std::ssize(selected);
  const Dataset images = context.test.head((int64_t{1} << 27) / elements);
  std::vector<NetShare> shares = net_shares(
      *trained.head, *make_protection(trained.protection), used, *trained.tail, context.spec,
      context.split, images, context.device, context.dtype, context.check_stop);
  std::ranges::sort(shares, std::ranges::greater{}, &NetShare::share);
  for (const NetShare& own : shares) {
    auto& net = *summary.add_selected_nets();
    net.set_share(own.share);
    net.set_accuracy(own.accuracy);
  }
}

void write_bundles(const TrainingContext& context, const TrainingResult& trained) {
  CloudBundle cloud;
  cloud.info.model = context.spec;
  cloud.info.split = context.split;
  cloud.info.nets = context.config.ensemble().nets();
  cloud.info.data = context.train.name;
  cloud.info.fit = parse_fit(context.config.data().fit(), "data.fit");
  cloud.bodies = trained.bodies;
  write_cloud_bundle(context.run.path("cloud.h5"), cloud);
  const EdgeBundle edge{cloud.info,   context.train.class_names, trained.head,
                        trained.tail, trained.selector,          trained.protection};
  write_edge_bundle(context.run.path("edge.h5"), edge);
}

void describe(const TrainingContext& context, const TrainingResult& trained,
              results::RunSummary& summary) {
  const EnsembleConfig& e = context.config.ensemble();
  const SplitCost cost = split_cost(context.spec, context.split, e.selected());
  const auto count = [](int64_t value) { return static_cast<int32_t>(value); };
  summary.set_protection(context.config.protection().kind());
  summary.set_nets(e.nets());
  summary.set_selected(e.selected());
  summary.set_sigma(e.sigma());
  summary.set_lambda(e.lambda());
  summary.set_architecture(context.spec.architecture);
  summary.set_width(count(context.spec.width));
  summary.set_dtype(name(context.dtype));
  summary.mutable_split()->set_head(context.split.head);
  summary.mutable_split()->set_tail(context.split.tail);
  summary.set_data(context.train.name);
  summary.set_train_images(count(context.train.count()));
  summary.set_test_images(count(context.test.count()));
  summary.mutable_flops()->set_edge(static_cast<double>(cost.edge_flops));
  summary.mutable_flops()->set_cloud(static_cast<double>(cost.body_flops * e.nets()));
  const auto channel = find_channel(trained.protection, cost.sent.numel());
  summary.mutable_bytes()->set_up(static_cast<double>(cost.sent.numel() * (channel ? 1 : 4)));
  if (channel) {
    summary.mutable_channel()->set_bits(channel->bits);
    summary.mutable_channel()->set_power(channel->power);
    summary.mutable_channel()->set_elements(count(channel->elements));
    summary.mutable_channel()->set_keyed(channel->keyed);
  }
  summary.mutable_bytes()->set_down(static_cast<double>(cost.body_output.numel() * 4 * e.nets()));
}

}  // namespace

void train_ensemble(const RunConfig& config, RunDir& run, const Dataset& train, const Dataset& test,
                    const std::vector<std::vector<NamedTensor>>& imported) {
  const TrainingContext context(config, run, train, test);
  if (!imported.empty()) import_stage1(context, imported);
  const auto start1 = std::chrono::steady_clock::now();
  std::optional<TrainingResult> trained;
  Stage1 stage1;
  if (trains_jointly(config)) {
    trained = train_jointly(context);
    stage1.accuracies = {trained->accuracy};
  } else {
    stage1 = train_stage1(context);
  }
  const double seconds1 = seconds_since(start1);
  const auto start2 = std::chrono::steady_clock::now();
  if (!trained) trained = context.protection->finish(context, stage1);
  results::RunSummary summary;
  measure_features(context, *trained, summary);
  measure_nets(context, *trained, summary);
  write_bundles(context, *trained);
  summary.set_accuracy(trained->accuracy);
  summary.mutable_net_accuracy()->Assign(stage1.accuracies.begin(), stage1.accuracies.end());
  if (trained->similarity) summary.set_similarity(*trained->similarity);
  if (trained->snr) summary.set_snr(*trained->snr);
  (*summary.mutable_seconds())["stage1"] = seconds1;
  (*summary.mutable_seconds())["stage2"] = seconds_since(start2);
  describe(context, *trained, summary);
  results::write(run.path("summary.json"), summary);
}

}  // namespace ens
