// Attack: from an AdversaryView to reconstructed images. A new attack is one file and one line in
// attacks.cc. Attacks are used from one thread; they may start threads of their own.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attacks/split/adversary_view.h"

namespace ens {

// In the order of growing knowledge. All levels include query-free.
enum class KnowledgeLevel { kQueryFree, kKnownPairs, kBlackBox, kWhiteBox };
const char* name(KnowledgeLevel level);  // "query-free", "known pairs", "black box", "white box"

// What proto/config.proto's AttackConfig says; the meaning and ranges are there.
struct AttackOptions {
  int shadow_epochs = 12;
  int decoder_epochs = 6;
  int decoder_channels = 64;  // inside decoders; more where the feature has more
  int64_t batch = 64;
  float lr = 4e-3f;         // Adam's, the peak of a one-cycle schedule: decoders
  int shadow_channels = 0;  // inside the shadow head; 0: as many as the client's feature has
  int shadow_layers = 0;    // convolutions behind the client's own head
  bool shadow_augment = true;
  float shadow_lr = 0.02f;  // as lr, for shadow heads and tails
  float shadow_bn_weight =
      3;                  // of statistics_mismatch (attacks/split/shadow.h) in the shadow's loss
  int shadow_starts = 8;  // initialisations tried; the best by held-out cross-entropy goes on
  int64_t shadow_start_images = 4000;  // how many images each of several is tried on
  std::vector<int> subset;             // shadow-subset; empty: view.subset
  std::vector<int> subset_sizes;       // shadow-enumerate; empty: all
  int screen_epochs = 1;
  int64_t screen_images = 2000;
  int keep = 4;
  int restarts = 1;
  int alignment_steps = 1200;
  int64_t alignment_batch = 256;
  int rmle_iterations = 500;
  float rmle_lr = 0.1f, rmle_tv = 0.03f, rmle_l2 = 0;
  std::vector<int64_t> pairs = {1, 10, 100, 1000, 10000};
  // Called as work is done, in the units of Attack::work(). May be empty; called from several
  // threads.
  std::function<void(int64_t images, const std::string& note)> on_progress;
};

// One reconstruction of all observed features. Attacks that try several (one per server net) return
// several; the evaluator says which it reports and that it chose with the truth at hand.
struct Reconstruction {
  std::string part;             // "net 0", "all nets", "m = 100"
  Tensor images;                // [M, channels, S, S] in [0, 1]
  double shadow_accuracy = -1;  // of the shadow classifier on held-out public images; -1: none
  // The attacker's own criterion, without the truth: higher is better. Not a number: it has none.
  // With several reconstructions the evaluator also reports the attacker's own pick.
  double merit = std::numeric_limits<double>::quiet_NaN();
  // Set on all or none: the reconstructions are points of a curve (the number m of known pairs),
  // not alternatives. The last one is reported.
  double x = std::numeric_limits<double>::quiet_NaN();
  // Calibration: public held-out images and their reconstruction from the attacker's own features.
  // Undefined where the attack has no features of its own.
  Tensor own_images, own_truth;
};

class Attack {
 public:
  virtual ~Attack() = default;
  virtual std::string name() const = 0;   // "shadow-n1": folder and table key
  virtual std::string title() const = 0;  // "shadow + decoder, N=1"
  virtual KnowledgeLevel level() const = 0;
  // What it needs beyond its level; see AdversaryView.
  virtual bool wants_traffic() const { return false; }
  virtual bool wants_subset() const { return false; }
  virtual int64_t wants_pairs(const AttackOptions&) const { return 0; }  // how many
  // Whether it makes sense against this target: "" or the reason why not ("one server net only").
  virtual std::string pointless(const AdversaryView&) const { return ""; }
  // Whether most of its work() goes through the server nets, rather than through a decoder alone.
  virtual bool through_bodies() const { return false; }
  // Images that run() will pass through networks in training: for progress and estimates.
  virtual int64_t work(const AdversaryView& view, const AttackOptions& options) const = 0;
  virtual std::vector<Reconstruction> run(const AdversaryView& view,
                                          const AttackOptions& options) = 0;
};

std::vector<std::string> attack_names();
// Usage Error lists the known names.
std::unique_ptr<Attack> make_attack(const std::string& name);

}  // namespace ens
