// SPDX-License-Identifier: Apache-2.0
#include "disguise/train/model.h"

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "disguise/set/set.h"
#include "disguise/train/evaluate.h"

namespace ens {
namespace {

// The names of the notes in the bundle.
constexpr const char* kMethod = "disguise_method";
constexpr const char* kSettings = "disguise_settings";
constexpr const char* kKeyId = "disguise_key_id";
constexpr const char* kSetId = "disguise_set_id";
constexpr const char* kMarks = "disguise_marks";  // a line each

}  // namespace

void write_disguised_model(const std::filesystem::path& file, DisguisedModel& model) {
  CloudBundle bundle{.info = model.info, .bodies = {model.net}};
  bundle.notes = {{kMethod, model.method},
                  {kSettings, model.settings},
                  {kKeyId, model.key_id},
                  {kSetId, model.set_id},
                  {kMarks, join(model.marks, "\n")}};
  write_cloud_bundle(file, bundle);
  model.info = bundle.info;
}

DisguisedModel read_disguised_model(const std::filesystem::path& file) {
  CloudBundle bundle = read_cloud_bundle(file);
  if (bundle.info.split.head != 0 || bundle.bodies.size() != 1 || bundle.info.nets != 1) {
    fail("this is a bundle of split inference, and no model of disguised images", file.string(),
         "name the model.h5 of ensembler disguise train");
  }
  const auto note = [&](const char* name) {
    const auto found = bundle.notes.find(name);
    if (found == bundle.notes.end()) {
      fail(std::string("the model does not say its ") + name, file.string(), "train it again");
    }
    return found->second;
  };
  DisguisedModel model{.info = bundle.info, .net = bundle.bodies[0]};
  model.method = note(kMethod);
  model.settings = note(kSettings);
  model.key_id = note(kKeyId);
  model.set_id = note(kSetId);
  model.marks = split_text(note(kMarks), '\n');
  return model;
}

Tensor classify_disguised(const DisguisedModel& model, const Tensor& rows, Device device) {
  const Shape row = model.row();
  if (rows.rank() != row.rank() + 1 || rows.dim(0) < 1 ||
      !(rows.shape() == batched(rows.dim(0), row))) {
    usage_fail("disguised images are " + rows.shape().str() + ", and the model reads " +
                   row.str().insert(1, "B, "),
               "the model", "disguise them with the key of its training set");
  }
  Plan plan(lower(*model.net, row), device, Dtype::kF32, std::min(kEvaluationBatch, rows.dim(0)));
  return plan.run(rows).to(Device{});
}

double disguised_accuracy(const DisguisedModel& model, const DisguisedSetReader& set,
                          Device device) {
  const DisguisedSetInfo& info = set.info();
  if (!(info.shape == model.row()) || info.classes != model.info.model.classes ||
      info.method != model.method || info.key_id != model.key_id) {
    usage_fail("the set was not disguised as the model's training set was",
               "the model of key " + model.key_id + ", the set of key " + info.key_id,
               "disguise both with one key");
  }
  Plan plan(lower(*model.net, model.row()), device, Dtype::kF32, kEvaluationBatch);
  return set_accuracy(plan, set, info.rows, [] {});
}

}  // namespace ens
