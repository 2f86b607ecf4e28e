// SPDX-License-Identifier: Apache-2.0
// Disguise: images of a data set, what becomes of them under a method and a new key, and what
// attacks rebuild; a whole set disguised, and handed to the cloud (figure 4 of "Demo: Image
// Disguising for Scalable GPU-accelerated Confidential Deep Learning", CCS 2023).
#include "lab/scenarios/disguise.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <list>
#include <mutex>

#include "attacks/disguise/registry.h"
#include "base/strings.h"
#include "lab/config_flags.h"
#include "lab/disguise_bench.h"
#include "lab/pictures.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "report/data.h"
#include "studio/index.h"
#include "studio/jobs.h"
#include "studio/newest.h"
#include "studio/own_pictures.h"
#include "studio/pictures.h"
#include "studio/room.h"
#include "studio/sets.h"
#include "studio/views.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
namespace pb = google::protobuf;
using Clock = std::chrono::steady_clock;

constexpr size_t kBenches = 6;                                  // keys in memory
constexpr std::chrono::seconds kPatience{20};                   // of an attack here and now
constexpr int64_t kTrain = 5000, kPublic = 1000, kTest = 1000;  // for attacks here and now
constexpr int64_t kDrawn = 5000;  // of the drawn figures, in a whole set
constexpr const char* kOwn = "own";

struct Source {
  const char *name, *title, *set, *get;  // `set`: data.name
  int side;                              // data.image_size
};
constexpr Source kSources[] = {
    {"shapes", "Drawn figures", "shapes", "", 0},
    {"mnist", "MNIST", "mnist", "ensembler data get mnist", 0},
    {"fashion_mnist", "Fashion", "fashion_mnist", "ensembler data get fashion_mnist", 0},
    {"cifar10", "CIFAR-10", "cifar10", "ensembler data get cifar10", 0},
    {"faces", "LFW faces", "folder:faces/lfw", "ensembler data get faces", 64},
    // Own pictures are looked at; what attackers know are drawn figures of the same size.
    {kOwn, "Your own pictures", "shapes", "", OwnPictureStore::kSide},
};

const Source& source_of(const std::string& name) {
  const auto found = std::ranges::find(kSources, name, &Source::name);
  if (found == std::end(kSources)) throw Refusal(400, "there is no such data set", "data");
  return *found;
}

// The tabs of the source's figure; everything else is a control.
const char* tab_of(const std::string& method) {
  if (method == "rmt" || method == "aes") return "DisguisedNets";
  if (method == "instahide") return "InstaHide";
  if (method == "neuracrypt") return "NeuraCrypt";
  return "Controls";
}

void describe(const pb::FieldDescriptor& field, const std::string& path, studio::Control& out) {
  const schema::Setting& setting = field.options().GetExtension(schema::field);
  out.set_path(path);
  for (const std::string& choice : choices_of(setting)) out.add_choices(choice);
  switch (field.cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      out.set_kind("switch");
      break;
    case pb::FieldDescriptor::CPPTYPE_STRING:
      out.set_kind(out.choices().empty() ? "text" : "choice");
      break;
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      out.set_kind("number");
      break;
    default:
      out.set_kind("integer");
  }
  if (setting.has_low()) out.set_low(setting.low());
  if (setting.has_high()) out.set_high(setting.high());
  out.set_preset(setting.default_());
  out.set_doc(setting.doc());
}

// The settings of a method: those of the message of its name, and of the fields that it shares.
std::vector<studio::Control> controls_of(const std::string& method) {
  std::vector<studio::Control> out;
  const pb::Descriptor& all = *DisguiseConfig::descriptor();
  const auto add = [&](const std::string& group, const std::string& name) {
    const pb::FieldDescriptor* message = group.empty() ? nullptr : all.FindFieldByName(group);
    const pb::Descriptor& type = message ? *message->message_type() : all;
    const std::string path = "disguise." + (group.empty() ? "" : group + ".") + name;
    describe(*type.FindFieldByName(name), path, out.emplace_back());
  };
  if (method == "noise") add("", "sigma");
  if (method == "aesctr") add("aes", "key_bits");
  if (const pb::FieldDescriptor* own = all.FindFieldByName(method); own && own->message_type()) {
    for (int i = 0; i < own->message_type()->field_count(); ++i)
      add(method, own->message_type()->field(i)->name());
  }
  return out;
}

std::vector<studio::Control> common_controls() {
  std::vector<studio::Control> out;
  for (const char* name : {"permute_labels", "store"})
    describe(*DisguiseConfig::descriptor()->FindFieldByName(name), std::string("disguise.") + name,
             out.emplace_back());
  return out;
}

// "disguise.rmt.block=4x4", of what a browser may set.
std::vector<std::string> overrides_of(const studio::DisguiseSettings& wanted) {
  std::vector<studio::Control> known = controls_of(wanted.method());
  std::ranges::copy(common_controls(), std::back_inserter(known));
  std::vector<std::string> out;
  for (const studio::Setting& setting : wanted.settings()) {
    if (std::ranges::find(known, setting.path(), &studio::Control::path) == known.end())
      throw Refusal(400, "this method has no such setting", setting.path().substr(0, 64));
    const std::string& value = setting.value();
    const bool plain = !value.empty() && std::ranges::all_of(value, [](unsigned char c) {
      return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '+';
    });
    if (!plain) throw Refusal(400, "the value is no word and no number", setting.path());
    out.push_back(setting.path() + "=" + value);
  }
  return out;
}

bool is_method(const std::string& name) {
#define DISGUISE(method, title, keyed, meaning) \
  if (name == #method) return true;
#include "proto/disguises.inc"
#undef DISGUISE
  return false;
}

std::string text_of(const Shape& shape) {
  std::string out;
  for (const int64_t d : shape.dims()) out += (out.empty() ? "" : "x") + std::to_string(d);
  return out;
}

Tensor one(const Tensor& batch, int64_t i) {
  return batch.rows(i, 1).reshape(Shape(batch.shape().dims().subspan(1)));
}

int64_t columns_for(int64_t count) { return count <= 1 ? 1 : count <= 4 ? 2 : 4; }

class DisguiseRoom final : public Room {
 public:
  explicit DisguiseRoom(const RoomServices& services) : services_(services) {}
  const char* name() const override { return "disguise"; }
  const char* title() const override { return "Disguise"; }

  void add_routes(Site& site) override {
    using Call = Site::Call;
    site.get("disguise", [](const Call&) { return json_reply(choices()); });
    site.post("disguise/preview", [this](const Call& call) {
      studio::PreviewRequest request;
      call.read(request);
      return json_reply(preview(request, call.visitor));
    });
    site.post("disguise/attack", [this](const Call& call) {
      studio::DisguiseAttackRequest request;
      call.read(request);
      return json_reply(attack(request, call.visitor));
    });
    site.get("disguise/sets",
             [this](const Call&) { return json_reply(services_.sets.owner_sets()); });
    site.post("disguise/sets", [this](const Call& call) {
      studio::DisguiseSetRequest request;
      call.read(request);
      return json_reply(make_set(request), 201);
    });
    site.post("disguise/sets/*/upload", [this](const Call& call) {
      need_jobs();
      services_.sets.hand_over(call.ids[0]);
      return json_reply(services_.sets.owner_sets());
    });
    site.remove("disguise/sets/*", [this](const Call& call) {
      need_jobs();
      services_.sets.remove(call.ids[0]);
      return json_reply(services_.sets.owner_sets());
    });
    site.get("disguise/own", [this](const Call& call) { return json_reply(own(call.visitor)); });
    site.post("disguise/own", [this](const Call& call) {
      need_jobs();  // a stand's machine takes nothing from visitors
      own_.add(call.visitor, call.request.body);
      return json_reply(own(call.visitor), 201);
    });
    site.remove("disguise/own", [this](const Call& call) {
      own_.clear(call.visitor);
      return json_reply(own(call.visitor));
    });
  }

 private:
  struct Bench {
    std::string key;  // its configuration
    std::shared_ptr<DisguiseBench> bench;
  };
  struct Shown {
    std::shared_ptr<DisguiseBench> bench;
    Tensor images;  // [B, C, H, W] in [0, 1]
    int first = 0, total = 0;
    std::vector<std::string> labels;
  };

  static studio::DisguiseChoices choices() {
    studio::DisguiseChoices out;
#define DISGUISE(name_, title_, keyed_, meaning_)                               \
  {                                                                             \
    auto& method = *out.add_methods();                                          \
    method.set_name(#name_);                                                    \
    method.set_title(title_);                                                   \
    method.set_tab(tab_of(#name_));                                             \
    method.set_keyed(keyed_);                                                   \
    method.set_meaning(meaning_);                                               \
    for (auto& control : controls_of(#name_)) *method.add_controls() = control; \
  }
#include "proto/disguises.inc"
#undef DISGUISE
    for (auto& control : common_controls()) *out.add_common() = control;
    for (const std::string& name : disguise_attack_names()) {
      const auto attack = make_disguise_attack(name);
      auto& a = *out.add_attacks();
      a.set_name(name);
      a.set_title(attack->title());
      a.set_level(ens::name(attack->level()));
    }
    for (const Source& source : kSources) {
      auto& data = *out.add_data();
      data.set_name(source.name);
      data.set_title(source.title);
      DataOptions options;
      options.name = source.set;
      data.set_present(dataset_present(options));
      if (!data.present()) data.set_command(source.get);
    }
    return out;
  }

  void need_jobs() const {
    if (!services_.jobs)
      throw Refusal(403, "this studio is read-only", "disguise", "start one without --read-only");
  }

  static std::vector<std::string> settings_of(const studio::DisguiseSettings& wanted) {
    if (!is_method(wanted.method())) throw Refusal(400, "there is no such method", "method");
    const Source& source = source_of(wanted.data());
    DataOptions options;
    options.name = source.set;
    if (!dataset_present(options))
      throw Refusal(409, std::string(source.title) + " is not on this machine", "data", source.get);
    std::vector<std::string> set = overrides_of(wanted);
    set.push_back("disguise.method=" + wanted.method());
    set.push_back(std::string("data.name=") + source.set);
    if (source.side > 0) set.push_back(fmt::format("data.image_size={}", source.side));
    return set;
  }

  std::shared_ptr<DisguiseBench> bench_for(const studio::DisguiseSettings& wanted) {
    ConfigFlags flags;
    flags.overrides = settings_of(wanted);
    const int64_t less = source_of(wanted.data()).side > 0 ? 4 : 1;  // larger images
    for (const auto& [path, value] : {std::pair("data.train_limit", kTrain / less),
                                      {"data.public_images", kPublic / less},
                                      {"data.test_limit", kTest / less},
                                      {"attack.public_images", kPublic / less},
                                      {"attack.observed_features", kTrain / less}})
      flags.overrides.push_back(fmt::format("{}={}", path, value));
    const RunConfig config = flags.resolve();
    const std::string key = to_text(config);
    std::lock_guard lock(benches_mutex_);
    const auto found = std::ranges::find(benches_, key, &Bench::key);
    if (found != benches_.end()) {
      benches_.splice(benches_.begin(), benches_, found);
    } else {
      benches_.push_front({key, std::make_shared<DisguiseBench>(config)});
      if (benches_.size() > kBenches) benches_.pop_back();
    }
    return benches_.front().bench;
  }

  Shown shown(const studio::PreviewRequest& request, const std::string& visitor) {
    const int count = request.count();
    if (count != 1 && count != 4 && count != 16)
      throw Refusal(400, "1, 4 or 16 images are shown at once", "count");
    Shown out;
    out.first = request.first();
    const auto check = [&](int64_t total) {
      out.total = static_cast<int>(total);
      if (out.first < 0 || out.first >= total)
        throw Refusal(400, "there is no such image", "first", fmt::format("0 to {}", total - 1));
    };
    if (request.settings().data() == kOwn) {
      const size_t mine = own_.count(visitor);
      if (mine == 0) throw Refusal(409, "there are no pictures of yours yet", "own", "add some");
      check(static_cast<int64_t>(mine));
      out.images =
          own_.pictures(visitor, static_cast<size_t>(out.first), static_cast<size_t>(count));
      for (int64_t i = 0; i < out.images.dim(0); ++i)
        out.labels.push_back(fmt::format("picture {}", out.first + i + 1));
      out.bench = bench_for(request.settings());
      return out;
    }
    out.bench = bench_for(request.settings());
    const Dataset& data = out.bench->images();
    check(data.count());
    out.images = images_of(data, out.first, std::min<int64_t>(count, data.count() - out.first));
    for (int64_t i = 0; i < out.images.dim(0); ++i) {
      const auto label = static_cast<size_t>(data.labels[static_cast<size_t>(out.first + i)]);
      out.labels.push_back(data.class_names[label]);
    }
    return out;
  }

  std::string add(const Tensor& sheet) {
    const std::vector<uint8_t> png = encode_png(sheet);
    return services_.pictures.add({reinterpret_cast<const char*>(png.data()), png.size()});
  }

  // [B, ...] as one picture; lines between them are as wide as a pixel of the original.
  std::string sheet(const Tensor& batch, float low, float high, int64_t down = 1,
                    int64_t across = 1) {
    std::vector<Tensor> all;
    for (int64_t i = 0; i < batch.dim(0); ++i) all.push_back(as_picture(one(batch, i), low, high));
    return add(tiled(all, columns_for(batch.dim(0)), down, across));
  }

  studio::DisguisePreview preview(const studio::PreviewRequest& request,
                                  const std::string& visitor) {
    const Newest::Ticket ticket = newest_.take("preview " + request.visitor());
    const Shown shown = this->shown(request, visitor);
    newest_.check(ticket, "preview");
    DisguiseBench& bench = *shown.bench;
    const int64_t count = shown.images.dim(0);
    const auto start = Clock::now();
    const Tensor rows = bench.disguise(shown.images);
    const std::chrono::duration<double, std::micro> time = Clock::now() - start;
    const Shape row = bench.disguised_shape();
    studio::DisguisePreview out;
    out.set_original(sheet(shown.images, 0, 1));
    auto [low, high] = range_of(rows, bench.ciphertext());
    if (low >= 0 && high <= 255) low = 0, high = 255;  // still pixels
    out.set_tokens(row.rank() != 3);
    out.set_disguised(sheet(
        rows, low, high, row.rank() == 3 ? std::max<int64_t>(1, row[1] / shown.images.dim(2)) : 1,
        row.rank() == 3 ? std::max<int64_t>(1, row[2] / shown.images.dim(3)) : 1));
    out.set_columns(static_cast<int>(columns_for(count)));
    out.set_first(shown.first);
    out.set_count(static_cast<int>(count));
    out.set_total(shown.total);
    for (const std::string& label : shown.labels) out.add_labels(label);
    const Shape image(shown.images.shape().dims().subspan(1));
    out.set_image_shape(text_of(image));
    out.set_disguised_shape(text_of(row));
    out.set_bytes_before(static_cast<double>(image.numel()));
    out.set_bytes_after(bench.bytes_of_row());
    out.set_microseconds(time.count() / static_cast<double>(count));
    out.set_key_bytes(bench.key_bytes());
    for (const std::string& name : disguise_attack_names()) {
      auto& applies = *out.add_attacks();
      applies.set_attack(name);
      applies.set_quick(bench.is_quick(name));
      if (const std::string why = bench.not_applicable_reason(name); !why.empty())
        applies.set_reason(why);
    }
    return out;
  }

  studio::DisguiseAttack attack(const studio::DisguiseAttackRequest& request,
                                const std::string& visitor) {
    const std::vector<std::string> names = disguise_attack_names();
    if (std::ranges::find(names, request.attack()) == names.end())
      throw Refusal(400, "there is no such attack", "attack", "one of " + join(names));
    const Newest::Ticket ticket = newest_.take("attack " + request.shown().visitor());
    const Shown shown = this->shown(request.shown(), visitor);
    DisguiseBench& bench = *shown.bench;
    if (const std::string why = bench.not_applicable_reason(request.attack()); !why.empty())
      throw Refusal(409, why, "attack");
    if (!bench.is_quick(request.attack()))
      throw Refusal(409, "this attack takes too long to be run here", "attack",
                    "open results that were measured before, or run `ensembler attack`");
    const auto start = Clock::now();
    const bool own = request.shown().settings().data() == kOwn;
    return describe(bench.attack(request.attack(), shown.images, own ? -1 : shown.first, [&] {
      newest_.check(ticket, "attack");
      if (Clock::now() - start > kPatience)
        throw Refusal(503, "the attack took longer than 20 seconds here", "attack",
                      "run `ensembler attack` on a finished run");
    }));
  }

  studio::DisguiseAttack describe(const DisguiseBench::Rebuilt& rebuilt) {
    const AttackScore& score = rebuilt.score;
    const auto put = [](const Interval& from, results::Interval& to) {
      to.set_mean(from.mean), to.set_low(from.low), to.set_high(from.high);
    };
    studio::DisguiseAttack out;
    out.set_attack(score.attack);
    out.set_title(score.title);
    out.set_level(score.level);
    out.set_scored_images(static_cast<int>(score.scored_images));
    out.set_gallery(static_cast<int>(rebuilt.gallery));
    out.set_public_images(static_cast<int>(rebuilt.public_images));
    out.set_disguised_rows(static_cast<int>(rebuilt.rows));
    out.set_seconds(score.seconds);
    for (size_t i = 0; i < score.candidates.size(); ++i) {
      const CandidateScore& c = score.candidates[i];
      auto& point = *out.add_points();
      point.set_name(c.name);
      if (std::isfinite(c.x)) point.set_x(c.x);
      point.set_rebuilt(sheet(rebuilt.candidates[i], 0, 1));
      point.set_shown_ssim(rebuilt.ssim[i]);
      point.set_shown_psnr(rebuilt.psnr[i]);
      point.mutable_ssim()->set_mean(c.ssim);
      point.mutable_psnr()->set_mean(c.psnr);
      if (c.name == score.best_candidate) {
        out.set_best(static_cast<int>(i));
        put(score.scores.ssim, *point.mutable_ssim());
        put(score.scores.psnr, *point.mutable_psnr());
      }
      if (c.matching) {
        put(c.matching->rank1, *point.mutable_rank1());
        point.set_guesswork(c.matching->guesswork);
        point.set_verdict(report::verdict_word(c.matching->rank1.mean, rebuilt.reads_plain));
      }
      if (c.hits) {
        point.set_hits(c.hits->all);
        point.set_hits_non_constant(c.hits->non_constant);
      }
    }
    return out;
  }

  // The key of what was shown, in a file; the command that is public does the rest.
  studio::Job make_set(const studio::DisguiseSetRequest& request) {
    need_jobs();
    const studio::DisguiseSettings& wanted = request.settings();
    if (wanted.data() == kOwn)
      throw Refusal(409, "your own pictures have no labels to train with", "data",
                    "choose a data set");
    const Source& source = source_of(wanted.data());
    const auto bench = bench_for(wanted);
    ConfigFlags flags;
    flags.overrides = settings_of(wanted);
    std::vector<std::string> data = {"data.public_images=0"};
    if (wanted.data() == "shapes") {
      data.push_back(fmt::format("data.train_limit={}", kDrawn));
      data.push_back(fmt::format("data.test_limit={}", kTest));
    }
    if (source.side > 0) data.push_back(fmt::format("data.image_size={}", source.side));
    JobPlan plan;
    const DisguiseConfig disguise = flags.resolve().disguise();
    results::RunSummary::Disguise named;
    named.set_method(wanted.method());
    named.set_settings(disguise_settings_for_tables(disguise));
    const std::string title = fmt::format("{} on {}", report::disguise_title(named), source.title);
    studio::OwnerSets::Set about;
    about.set_title(title);
    const std::string id = services_.sets.make(about);
    const fs::path folder = services_.sets.owner(id);
    bench->write_key(folder / "owner.key");
    plan.title = "Disguise: " + title;
    plan.out = folder;
    plan.arguments = {"disguise",   "apply",
                      "--key",      (folder / "owner.key").string(),
                      "--data-set", source.set,
                      "--out",      (folder / "train.h5").string(),
                      "--test",     (folder / "test.h5").string(),
                      "--report",   (folder / "set.json").string()};
    for (const std::string& setting : data)
      plan.arguments.insert(plan.arguments.end(), {"--set", setting});
    studio::JobRequest stored;
    stored.set_set(id);
    const studio::Job job = services_.jobs->submit(stored, plan);
    services_.sets.set_job(id, job.id());
    return job;
  }

  studio::OwnPictures own(const std::string& visitor) {
    studio::OwnPictures out;
    const size_t count = own_.count(visitor);
    out.set_count(static_cast<int>(count));
    out.set_most(static_cast<int>(OwnPictureStore::kMost));
    if (count > 0) {
      const Tensor some = own_.pictures(visitor, 0, 16);
      out.set_sheet(sheet(some, 0, 1));
    }
    return out;
  }

  const RoomServices services_;
  Newest newest_;
  OwnPictureStore own_;
  std::mutex benches_mutex_;
  std::list<Bench> benches_;  // the last used first
};

}  // namespace

std::unique_ptr<Room> make_disguise_room(const RoomServices& services) {
  return std::make_unique<DisguiseRoom>(services);
}

}  // namespace ens
