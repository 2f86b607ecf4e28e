// SPDX-License-Identifier: Apache-2.0
// Attack: from what one attacker may know (a typed view) to reconstructed images.
//
// A scenario (attacks/split, later others) has a Victim, which holds everything that could be
// known, and one view type for each kind of knowledge. An attack derives from AttackOn<View> and
// cannot name what its view has no member for; grant(victim, context, view), one file in each
// scenario, says what a view gets. A new attack is one file and one line in
// proto/attacks.inc.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attacks/core/decoder.h"
#include "nn/core/tensor.h"
#include "proto/config.pb.h"

namespace ens {

// What an attacker has. A blind attack does not even look at what the client sent. Of split
// inference in the order of growing knowledge, from query-free on; then the ladder of disguised
// training (docs/disguise.md), each level with all before it.
enum class KnowledgeLevel {
  kBlind,
  kQueryFree,
  kKnownPairs,
  kBlackBox,
  kRepeatedSends,
  kWhiteBox,
  kDisguisedSet,    // L0: the disguised set, its labels, the queries, the trained model
  kPublicImages,    // L1: and public images of the distribution
  kPrivateImages,   // L1x: and the private images themselves, not who is who
  kDisguisedPairs,  // L2: and some pairs of image and disguised image
  kAnyPairs,        // oracle: and as many of them as it likes
};
// "blind", "query-free", "known pairs", "black box", "repeated sends", "white box", "L0", "L1",
// "L1x", "L2", "oracle"
const char* name(KnowledgeLevel level);

// How an attack runs: its settings (proto/config.proto; every field set), and where and how it
// computes, which is no knowledge.
struct AttackContext {
  AttackContext();  // the settings' defaults, on the CPU
  AttackConfig settings;
  Device device;
  Dtype dtype = Dtype::kF32;
  uint64_t seed = 1;
  // Called as work is done, in the images of AttackCost, at least once a second; from several
  // threads. May be empty. An exception that it throws ends the attack: that is how one is stopped.
  std::function<void(int64_t images, const std::string& note)> on_progress;
  void report(int64_t images, const std::string& note) const {
    if (on_progress) on_progress(images, note);
  }
};

// What a trained model is worth to somebody else: on which images it was tried, and how often it is
// right.
struct ModelUse {
  std::string on;
  double accuracy = 0;
};

// One reconstruction of all observed images. Attacks that try several (one for each server net)
// return several candidates; the evaluator says which it reports and that the truth chose it.
struct Reconstruction {
  std::string candidate;        // "net 0", "all nets", "m = 100"
  Tensor images;                // [M, channels, S, S] in [0, 1]
  double shadow_accuracy = -1;  // of the shadow classifier on held-out public images; -1: none
  // The attacker's own criterion, without the truth: higher is better. NaN: it has none. With
  // several candidates the evaluator also reports the attacker's own choice.
  double self_score = std::numeric_limits<double>::quiet_NaN();
  // Set on all or none: the candidates are points of a curve (over the number of known pairs, of
  // sends, of shards), not alternatives. The last one is reported.
  double x = std::numeric_limits<double>::quiet_NaN();
  // Calibration: public held-out images and their reconstruction from the attacker's own features.
  // Undefined where the attack has no features of its own.
  Tensor calibration_images, calibration_targets;
  // The attacker's own comparison with candidates for the original: [M, G] for G images
  // [G,C,S,S], higher is likelier. Empty: the reconstruction is compared with them.
  std::function<Tensor(const Tensor& gallery)> match;
  // Where a codebook held the block: 1, else 0, [M,C,S,S]; blocks of so many pixels. Undefined: it
  // has no codebook.
  Tensor known;
  int64_t block_height = 0, block_width = 0;
  // How the decoder was trained; without rounds: no decoder, or not a growing one.
  Saturation training;
  // Of an attack that says of each of its view's candidates whether the model was trained on it:
  // [n], higher is likelier. There are no images then.
  Tensor membership;
  std::vector<ModelUse> model_use;
};

// What can be said of an attack without running it. Attacks are used from one thread; they may
// start threads of their own.
class Attack {
 public:
  virtual ~Attack() = default;
  virtual std::string name() const = 0;   // "shadow-n1": folder and table key
  virtual std::string title() const = 0;  // "shadow + decoder, N=1"
  virtual KnowledgeLevel level() const = 0;
  // Whether most of its cost goes through the server nets, rather than through a decoder alone.
  virtual bool trains_through_bodies() const { return false; }
  // Whether it runs in tier `quick` only when it is asked for by name.
  virtual bool only_in_full_tier() const { return false; }
};

// With how many seeds it runs: attack.seeds (attack.shadow.seeds for shadows), by default 5 where
// shadows are trained, whose results scatter, and 1 elsewhere; a blind attack draws nothing.
int seeds_of(const Attack& attack, const AttackConfig& settings);

// What an attack's trainings and descents pass through networks, in images, with all its steps. The
// two kinds differ greatly in time: a small server net takes a tenth of what a decoder does.
struct AttackCost {
  int64_t nets = 0;      // through server nets, heads and critics, of each one
  int64_t decoders = 0;  // through decoders and what is as large
  int64_t images() const { return nets + decoders; }
};

// An attack of a scenario, run by name. `Setting` is what decides applicability and cost before
// anything is trained: the architecture, how many nets and images there are.
template <typename Victim, typename Setting>
class AttackAgainst : public Attack {
 public:
  // Whether it makes sense here: "" or the reason why not ("one server net only").
  virtual std::string not_applicable_reason(const Setting&) const { return ""; }
  // Of one run(): for progress, which counts its images(), and estimates.
  virtual AttackCost cost(const Setting& setting, const AttackConfig& settings) const = 0;
  // Runs on no more of the victim than the attack's view grants.
  virtual std::vector<Reconstruction> run(const Victim& victim, const AttackContext& context) = 0;
};

template <typename View>
class AttackOn : public AttackAgainst<typename View::Victim, typename View::Setting> {
 public:
  KnowledgeLevel level() const override { return View::kLevel; }
  std::vector<Reconstruction> run(const typename View::Victim& victim,
                                  const AttackContext& context) final {
    View view;
    grant(victim, context, view);
    return run_on(view, context);
  }
  virtual std::vector<Reconstruction> run_on(const View& view, const AttackContext& context) = 0;
};

}  // namespace ens
