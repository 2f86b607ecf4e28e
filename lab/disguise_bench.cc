// SPDX-License-Identifier: Apache-2.0
#include "lab/disguise_bench.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "disguise/key/key.h"
#include "disguise/owner/apply.h"
#include "lab/datasets.h"
#include "lab/results.h"
#include "lab/scenarios/disguise.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

constexpr int64_t kScored = 64;     // at least, where there are as many test images
constexpr int64_t kGallery = 1000;  // originals that a query is looked for among

Tensor joined(const Tensor& a, const Tensor& b) {
  Shape shape = a.shape();
  shape.set(0, a.dim(0) + b.dim(0));
  Tensor out = Tensor::empty(shape);
  out.rows(0, a.dim(0)).copy_from(a);
  out.rows(a.dim(0), b.dim(0)).copy_from(b);
  return out;
}

double average(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

struct DisguiseBench::Impl {
  explicit Impl(const RunConfig& c)
      : config(c),
        test(shared_dataset(config, DataPart::kTest)),
        key(DisguiseKey::make(
            config.disguise(),
            {{test->channels, test->height, test->width}, config.data().fit(), test->class_names},
            config.seed(),
            key_samples(config.disguise(), *shared_dataset(config, DataPart::kTrain),
                        mixed_in(config).get()))),
        transform(key.transform()),
        fresh(key.fresh("show")) {}

  // images in [0, 1]
  Tensor disguised(const Tensor& images) {
    Tensor pixels = images.clone();
    for (float& v : pixels.span<float>()) v = std::round(255 * v);
    std::lock_guard lock(fresh_mutex);
    return transform->apply(pixels, fresh);
  }

  // Until the training images are there, with as many as were asked for.
  DisguiseSetting setting() {
    std::lock_guard lock(data_mutex);
    const int64_t aside = config.data().public_images();
    return {config.disguise(), key.images().shape.shape(), transform->output_shape(),
            train ? train->count() : config.data().train_limit() - aside,
            pool ? pool->count() : aside};
  }

  // What attackers know is loaded when the first attack asks.
  void load() {
    auto t = shared_dataset(config, DataPart::kTrain),
         p = shared_dataset(config, DataPart::kPublic);
    std::lock_guard lock(data_mutex);
    train = std::move(t);
    pool = std::move(p);
  }

  // The disguised training set, as a cloud would have it; made when the first attack asks.
  const Tensor& set_rows() {
    if (!rows.defined()) {
      load();
      rows = disguised(images_of(*train, 0, train->count()));
    }
    return rows;
  }

  // What is scored, with the images shown in front, and what each is looked for among.
  std::pair<Tensor, Tensor> queries(const Tensor& shown, int64_t first) const {
    std::vector<int64_t> others;
    for (int64_t i = 0; i < test->count(); ++i)
      if (first < 0 || i < first || i >= first + shown.dim(0)) others.push_back(i);
    const auto take = [&](int64_t from, int64_t to, const Tensor& behind) {
      to = std::min(to, std::ssize(others));
      if (to <= from) return behind;
      const Dataset some = test->pick({others.begin() + from, others.begin() + to});
      return joined(behind, images_of(some, 0, some.count()));
    };
    const int64_t more = std::max<int64_t>(0, kScored - shown.dim(0));
    const Tensor truth = take(0, more, shown);
    return {truth, take(more, more + kGallery - truth.dim(0), truth)};
  }

  bool reads_plain(const std::string& name, const Tensor& shown, int64_t first,
                   const std::function<void()>& check) {
    if (const auto known = known_plain.find(name); known != known_plain.end()) return known->second;
    if (config.disguise().method() == "identity") return true;
    if (!plain) {
      RunConfig same = config;
      same.mutable_disguise()->set_method("identity");
      plain = std::make_unique<DisguiseBench>(same);
    }
    bool reads = false;
    if (plain->not_applicable_reason(name).empty()) {
      const AttackScore score = plain->attack(name, shown, first, check).score;
      reads =
          score.scores.ssim.mean > 0.999 || (score.matching && score.matching->rank1.mean > 0.999);
    }
    return known_plain[name] = reads;
  }

  const RunConfig config;
  const std::shared_ptr<const Dataset> test;
  const DisguiseKey key;
  const std::unique_ptr<Transform> transform;
  std::mutex fresh_mutex;
  FreshRandomness fresh;
  std::mutex data_mutex;
  std::shared_ptr<const Dataset> train, pool;
  std::mutex attack_mutex;
  Tensor rows;
  std::unique_ptr<DisguiseBench> plain;     // the same data, not disguised
  std::map<std::string, bool> known_plain;  // by attack
};

DisguiseBench::DisguiseBench(const RunConfig& config) : impl_(std::make_unique<Impl>(config)) {}
DisguiseBench::~DisguiseBench() = default;

const Dataset& DisguiseBench::images() const { return *impl_->test; }
Shape DisguiseBench::disguised_shape() const { return impl_->transform->output_shape(); }
bool DisguiseBench::ciphertext() const { return impl_->transform->ciphertext(); }
double DisguiseBench::key_bytes() const { return static_cast<double>(impl_->key.derived_bytes()); }

double DisguiseBench::bytes_of_row() const {
  const Dtype stored = ciphertext() ? Dtype::kU8 : parse_dtype(impl_->config.disguise().store());
  return static_cast<double>(disguised_shape().numel()) * static_cast<double>(size_of(stored));
}

Tensor DisguiseBench::disguise(const Tensor& images) { return impl_->disguised(images); }

void DisguiseBench::write_key(const std::filesystem::path& file) const { impl_->key.write(file); }

std::string DisguiseBench::not_applicable_reason(const std::string& attack) const {
  return make_disguise_attack(attack)->not_applicable_reason(impl_->setting());
}

DisguiseBench::Rebuilt DisguiseBench::attack(const std::string& name, const Tensor& shown,
                                             int64_t first, const std::function<void()>& check) {
  Impl& impl = *impl_;
  std::lock_guard lock(impl.attack_mutex);
  check();
  const auto attack = make_disguise_attack(name);
  DisguiseVictim victim;
  victim.disguise = impl.config.disguise();
  victim.image = impl.key.images().shape.shape();
  victim.training_rows = impl.set_rows().dim(0);
  victim.rows = [&](int64_t from, int64_t n) { return impl.rows.rows(from, n).clone(); };
  const auto [truth, gallery] = impl.queries(shown, first);
  victim.queries = impl.disguised(truth);
  victim.public_data = impl.pool.get();
  victim.apply = [&](const Tensor& images) { return impl.disguised(images); };
  AttackContext context;
  context.settings = impl.config.attack();
  context.seed = first_attack_seed(impl.config);
  context.on_progress = [&](int64_t, const std::string&) { check(); };
  Evaluator evaluator(truth, metric_mode(impl.config.attack()));
  evaluator.set_gallery(gallery);
  std::vector<Reconstruction> made;
  Rebuilt out;
  out.score = evaluator.evaluate(*attack, context.seed, [&] {
    made = attack->run(victim, context);
    check();
    return made;
  });
  for (const Reconstruction& r : made) {
    Tensor images = r.images.rows(0, shown.dim(0)).clone();
    for (float& v : images.span<float>()) v = std::clamp(v, 0.0f, 1.0f);
    const ImageScores scores = score_images(shown, images, metric_mode(impl.config.attack()));
    out.candidates.push_back(images);
    out.ssim.push_back(average(scores.ssim));
    out.psnr.push_back(average(scores.psnr));
  }
  out.gallery = gallery.dim(0);
  out.public_images = impl.pool->count();
  out.rows = victim.training_rows;
  out.reads_plain = impl.reads_plain(name, shown, first, check);
  return out;
}

bool DisguiseBench::is_quick(const std::string& name) const {
  // These train networks, which their cost does not count.
  static const std::set<std::string> kSlow = {"match", "decode"};
  const auto attack = make_disguise_attack(name);
  return attack->level() != KnowledgeLevel::kAnyPairs && !kSlow.contains(name) &&
         !attack->only_in_full_tier() &&
         attack->cost(impl_->setting(), impl_->config.attack()).images() == 0;
}

}  // namespace ens
