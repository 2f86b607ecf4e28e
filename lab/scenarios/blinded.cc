// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/blinded.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "attacks/core/evaluator.h"
#include "attacks/shares/separation.h"
#include "attacks/shares/views.h"
#include "attacks/split/grant.h"
#include "base/error.h"
#include "base/progress.h"
#include "ensemble/model/blinded_bundle.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "lab/results.h"
#include "lab/shares_accuracy.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int kSeeds = 3;  // of a coalition, where attack.seeds leaves it open

double accuracy_of(const Int8Net& net, const Dataset& test) {
  constexpr int64_t kBatch = 256;
  Progress progress("accuracy of the int8 network", test.count());
  int64_t right = 0;
  for (int64_t first = 0; first < test.count(); first += kBatch) {
    const Tensor images = images_of(test, first, std::min(kBatch, test.count() - first));
    const auto found = argmax_rows(run_int8(net, images));
    for (size_t i = 0; i < found.size(); ++i) {
      right += found[i] == test.labels[static_cast<size_t>(first) + i];
    }
    progress.add(images.dim(0));
  }
  progress.finish();
  return static_cast<double>(right) / static_cast<double>(test.count());
}

// The attacks on shares, each with several seeds.
class ShareAttacks {
 public:
  ShareAttacks(const fs::path& run, const RunConfig& config, const BlindedBundle& bundle,
               const Field& field)
      : config_(config), field_(field) {
    const auto test = shared_dataset(config, DataPart::kTest);
    check_classes(*test, bundle.class_names, run.string());
    context_.settings = config.attack();
    context_.device = parse_device(config.device());
    first_seed_ = first_attack_seed(config);
    roles_ = divide_images(*public_pool(config, run.string()), *test, config.attack(), first_seed_);
    truth_ = images_of(roles_.scored, 0, roles_.scored.count());
    // The first step of every model normalises the images.
    coding_ = {bundle.info.model.mean, bundle.info.model.stddev,
               bundle.net.groups.at(0).input_scale};
    model_ = bundle.info.model;
  }

  struct Result {
    std::unique_ptr<ShareAttack> attack;
    std::vector<AttackScore> by_seed;
    std::string error;  // why there is no score
  };

  // What so many workers get from their shares, of K + T. code: of residues.
  std::vector<Result> coalition(const std::optional<LagrangeCode>& code, int inputs, int noises,
                                Encoding& encoding, int size) const {
    ShareVictim victim = victim_of(code, inputs, noises);
    const int all = inputs + noises;
    // The last workers, which are sent more than a seed.
    for (int j = all - size; j < all; ++j) victim.coalition.push_back(j);
    for (int j = 0; j < all; ++j) {
      victim.recorded.push_back(
          as_tensor(encoding.elements(j), encoding.groups(), code ? Dtype::kI32 : Dtype::kF32));
    }
    std::vector<Result> out;
    if (code) out.push_back(run(share_decoder_attack(), victim, kSeeds));
    auto separating = code ? share_lattice_attack() : share_ica_attack();
    if (separating->not_applicable_reason({0, inputs, noises, size}).empty())
      out.push_back(run(std::move(separating), victim, 1, /*unordered=*/true));
    return out;
  }

  Result without_noise() const {
    ShareVictim victim = victim_of(LagrangeCode(field_, 1, 0, 1), 1, 0);
    const auto inputs = to_residues(field_, coding_.to_integers(truth_));
    victim.recorded = {as_tensor(inputs, truth_.dim(0))};
    victim.coalition = {0};
    return run(share_yardstick_attack(), victim);
  }

  Result floor() const {
    ShareVictim victim = victim_of(LagrangeCode(field_, 1, 1, 2), 1, 1);
    std::vector<uint32_t> uniform(static_cast<size_t>(truth_.numel()));
    expand_seed(SecureStream().next(), field_, uniform);
    victim.recorded = {as_tensor(uniform, truth_.dim(0))};
    victim.coalition = {0};
    return run(share_floor_attack(), victim);
  }

  void write(const fs::path& folder, const Result& result, const Result& floor,
             const Result& without_noise) const {
    const fs::path into = folder / result.attack->name();
    results::AttackResult out;
    if (result.error.empty()) {
      out = write_scores(into, result.by_seed, first_seed_, roles_, truth_,
                         config_.attack().keep_images());
    } else {
      fs::create_directories(into);
      out.set_attack(result.attack->name());
      out.set_title(result.attack->title());
      out.set_level(name(result.attack->level()));
      out.set_error(result.error);
    }
    if (result.attack->level() != KnowledgeLevel::kBlind)
      fill(out.mutable_floor(), floor.by_seed[0]);
    if (result.attack->name() == "oracle") {
      const AttackScore& open = without_noise.by_seed[middle_seed(without_noise.by_seed)];
      out.mutable_own()->set_ssim(open.scores.ssim.mean);
      out.mutable_own()->set_psnr(open.scores.psnr.mean);
    }
    out.set_metric(config_.attack().metric());
    out.set_tier(config_.attack().tier());
    out.set_settings(to_text(config_.attack()));
    out.set_device(backend(context_.device).description());
    out.set_dtype(name(context_.dtype));
    out.set_observed("shares of the first layer's inputs");
    results::write(into / "result.json", out);
  }

  const Tensor& truth() const { return truth_; }
  const ImageCoding& coding() const { return coding_; }
  uint64_t seed() const { return first_seed_; }

 private:
  ShareVictim victim_of(const std::optional<LagrangeCode>& code, int inputs, int noises) const {
    return {.model = model_,
            .coding = coding_,
            .inputs = inputs,
            .noises = noises,
            .code = code,
            .images = truth_.dim(0),
            .recorded = {},
            .coalition = {},
            .public_data = &roles_.public_data};
  }

  // Residues as kI32, or the bits of reals as kF32.
  Tensor as_tensor(std::span<const uint32_t> elements, int64_t groups,
                   Dtype dtype = Dtype::kI32) const {
    Tensor share = Tensor::empty({groups, truth_.dim(1), truth_.dim(2), truth_.dim(3)}, dtype);
    std::memcpy(share.host(), elements.data(), share.bytes());
    return share;
  }

  // unordered: the attack does not know which image of a virtual batch is which, nor its sign, and
  // is spared that.
  Result run(std::unique_ptr<ShareAttack> attack, const ShareVictim& victim, int default_seeds = 1,
             bool unordered = false) const {
    const Evaluator evaluator(truth_, metric_mode(config_.attack()));
    AttackContext context = context_;
    if (context.settings.seeds() == 0) context.settings.set_seeds(default_seeds);
    Result out;
    const int64_t passes = attack
                               ->cost({roles_.public_data.count(), victim.inputs, victim.noises,
                                       static_cast<int>(victim.coalition.size())},
                                      context.settings)
                               .images();
    // Without a training there are equations, with one solution whatever the seed.
    const int seeds = passes == 0 ? 1 : seeds_of(*attack, context.settings);
    std::optional<Progress> progress;
    if (passes > 0) {
      progress.emplace(fmt::format("{}, {} of {} shares", attack->name(), victim.coalition.size(),
                                   victim.recorded.size()),
                       seeds * passes);
      context.on_progress = [&](int64_t images, const std::string& note) {
        progress->add(images);
        progress->note(note);
      };
    }
    for (int i = 0; i < seeds; ++i) {
      context.seed = first_seed_ + static_cast<uint64_t>(i);
      const auto found = [&] {
        auto all = attack->run(victim, context);
        for (Reconstruction& r : all) {
          if (unordered) r.images = as_in(truth_, r.images, victim.inputs);
        }
        return all;
      };
      try {
        out.by_seed.push_back(evaluator.evaluate(*attack, first_seed_, found));
      } catch (const Error& error) {
        if (!unordered) throw;
        out.error = error.what();
        break;
      }
    }
    if (progress) progress->finish();
    out.attack = std::move(attack);
    return out;
  }

  const RunConfig& config_;
  const Field field_;
  AttackContext context_;
  uint64_t first_seed_ = 0;
  ImageRoles roles_;
  Tensor truth_;  // the scored images
  ModelSpec model_;
  ImageCoding coding_;
};

}  // namespace

BlindedCost blinded_cost(const Graph& graph, const std::vector<Int8Group>& groups,
                         const Scheme& scheme, int sent) {
  const int64_t seeds = std::min(scheme.seeds(), sent);
  const auto per_image = [&](int64_t elements, int bytes) {
    return elements * bytes / scheme.inputs();  // of one worker
  };
  BlindedCost cost;
  for (const Int8Group& group : groups) {
    ++cost.rounds;
    cost.bytes_up +=
        per_image(group.input.numel(), scheme.share_bytes()) * (sent - seeds) + 32 * seeds;
    for (const Int8Step& step : group.steps) {
      cost.bytes_down +=
          per_image(graph.shape(graph.steps[step.step].output).numel(), scheme.output_bytes()) *
          sent;
    }
  }
  return cost;
}

std::vector<fs::path> attack_blinded(const fs::path& run, const RunConfig& config) {
  const OffloadConfig& offload = config.offload();
  const int inputs = offload.virtual_batch(), noises = offload.noises(),
            workers = inputs + noises + offload.spare_shares();
  const Field field = Field::named(offload.field());
  const SchemeOptions options{.field = field,
                              .virtual_batch = inputs,
                              .noises = noises,
                              .shares = workers,
                              .noise_mean = offload.noise_mean(),
                              .noise_stddev = offload.noise_stddev()};
  const auto scheme = make_scheme(offload.scheme(), options);
  if (scheme->claims().collusion >= workers) {
    usage_fail("under scheme " + offload.scheme() +
                   " no number of workers learns anything: each is "
                   "sent the same uniform numbers",
               "offload.scheme", "use darknight_field");
  }
  if (scheme->numbers() == ShareNumbers::kIntegers) {
    usage_fail("scheme " + offload.scheme() + " hides nothing: every worker sees the activations",
               "offload.scheme", "use darknight_field");
  }
  const BlindedBundle bundle = read_blinded_bundle(run / "blinded.h5");
  const ShareAttacks attacks(run, config, bundle, field);
  const bool reals = scheme->numbers() == ShareNumbers::kReals;
  const Int8Group& first = bundle.net.groups.at(0);
  scheme->add_group({}, first.input, first.input_scale);
  const auto encoding = scheme->encode(0, attacks.coding().to_integers(attacks.truth()));
  std::optional<LagrangeCode> code;
  if (!reals) code.emplace(field, inputs, noises, workers);

  results::RunSummary summary;
  results::read(run / "summary.json", summary);
  results::RunSummary::Blinded& blinded = *summary.mutable_blinded();
  blinded.set_split_bytes_up(summary.bytes().up());
  summary.set_protection("blinded");
  const BlindedCost cost = blinded_cost(bundle.net.graph, bundle.net.groups, *scheme,
                                        std::min(workers, scheme->shares()));
  blinded.set_rounds(static_cast<int32_t>(cost.rounds));
  blinded.set_clouds(std::min(workers, scheme->shares()));
  blinded.set_scheme(offload.scheme());
  summary.mutable_bytes()->set_up(static_cast<double>(cost.bytes_up));
  summary.mutable_bytes()->set_down(static_cast<double>(cost.bytes_down));
  const auto test = shared_dataset(config, DataPart::kTest);
  summary.set_accuracy(reals ? shares_accuracy(bundle.net, *make_scheme(offload.scheme(), options),
                                               *test, test->count())
                                   .top1
                             : accuracy_of(bundle.net, *test));
  summary.set_test_images(static_cast<int32_t>(test->count()));
  summary.set_dtype("int8");
  for (const char* other :
       {"net_accuracy", "seconds", "flops", "selected_nets", "distance_correlation"}) {
    summary.GetReflection()->ClearField(&summary, summary.GetDescriptor()->FindFieldByName(other));
  }

  RunConfig stored = read_run_config(run);
  *stored.mutable_offload() = offload;
  const RunFacts facts{command_line(), backend(parse_device(config.device())).description(),
                       config.seed()};
  const auto floor = attacks.floor();
  const auto without_noise = reals ? ShareAttacks::Result{} : attacks.without_noise();
  std::vector<fs::path> folders;
  for (int c = reals ? scheme->needed() : 1; c <= scheme->needed(); ++c) {
    RunDir row(run / "blinded" / fmt::format("{}K{}-T{}", reals ? "real-" : "", inputs, noises) /
                   fmt::format("{}-of-{}", c, blinded.clouds()),
               to_text(stored), facts);
    blinded.set_colluding(c);
    results::write(row.path("summary.json"), summary);
    for (const auto& result : attacks.coalition(code, inputs, noises, *encoding, c))
      attacks.write(row.path("attack"), result, floor, without_noise);
    attacks.write(row.path("attack"), floor, floor, without_noise);
    row.mark_done();
    folders.push_back(row.folder());
  }
  return folders;
}

}  // namespace ens
