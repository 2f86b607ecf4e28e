// SPDX-License-Identifier: Apache-2.0
#include "proto/config_manual.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <vector>

#include "base/strings.h"
#include "proto/config.h"
#include "proto/protections.h"

namespace ens {
namespace {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

constexpr const char* kIntroduction = R"(# Configuration

All settings, with defaults and ranges. This page is printed from [`proto/config.proto`](../proto/config.proto):
`ensembler config > docs/config.md`.

A configuration file is Protobuf text (`.txtpb`):

```
seed: 7                          # a comment
data { name: "cifar100" }
stage1 { epochs: 20 lr: 0.1 }
attack { decoder { epochs: 10 } shadow_enumerate { sizes: [2, 3] } }
```

The same settings by path: `--set data.name=cifar100 --set stage1.epochs=20 --set attack.decoder.epochs=10
--set attack.shadow_enumerate.sizes=2,3`.
Defaults < file < `--set`. A setting that does not exist or is out of range is an error that says where it stands.
`cuda:*` and `folder:*` allow any text in place of the `*`.
)";

// A message and where it occurs in its root: "data", or "stage1" and "stage2"; the root: "".
struct Section {
  const pb::Descriptor* type;
  std::vector<std::string> paths;
};

// The root, then the messages in it; but not what `others` holds, the roots before it.
void collect(const pb::Descriptor* type, const std::string& path,
             const std::vector<const pb::Descriptor*>& others, std::vector<Section>& sections) {
  if (std::ranges::find(others, type) != others.end()) return;
  const auto known = std::ranges::find(sections, type, &Section::type);
  if (known != sections.end()) {
    known->paths.push_back(path);
    return;
  }
  sections.push_back({type, {path}});
  for (int i = 0; i < type->field_count(); ++i) {
    const Field* field = type->field(i);
    if (field->cpp_type() != Field::CPPTYPE_MESSAGE) continue;
    collect(field->message_type(), (path.empty() ? "" : path + ".") + field->name(), others,
            sections);
  }
}

std::string type_of(const Field& field) {
  const bool many = field.is_repeated();
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return "true or false";
    case Field::CPPTYPE_STRING:
      return many ? "texts" : "text";
    case Field::CPPTYPE_DOUBLE:
      return many ? "numbers" : "number";
    default:
      return many ? "integers" : "integer";
  }
}

std::string code(const std::string& text) { return "`" + text + "`"; }

std::string allowed(const schema::Setting& setting) {
  std::vector<std::string> choices;
  for (const std::string& choice : choices_of(setting)) choices.push_back(code(choice));
  return choices.empty() ? range_text(setting) : join(choices);
}

std::string table(const Section& section) {
  std::string rows;
  for (int i = 0; i < section.type->field_count(); ++i) {
    const Field& field = *section.type->field(i);
    if (field.cpp_type() == Field::CPPTYPE_MESSAGE) continue;
    if (field.options().HasExtension(schema::moved_to)) continue;
    const schema::Setting& options = field.options().GetExtension(schema::field);
    const std::string& path = section.paths[0];
    rows += fmt::format("| {} | {} | {} | {} | {} |\n",
                        code((path.empty() ? "" : path + ".") + field.name()), type_of(field),
                        options.has_default_() ? code(options.default_()) : options.if_unset(),
                        allowed(options), options.doc());
  }
  if (rows.empty()) return "";
  return "\n| setting | type | default | allowed | meaning |\n|---|---|---|---|---|\n" + rows;
}

// The lines of protections.inc.
std::string protection_kinds() {
  std::string list =
      "\n- `auto`: `ensembler` if `ensemble.nets` > 1, else `single` if `ensemble.sigma` > 0, else "
      "`none`\n";
  std::vector<std::string> one_net, without_noise;
  for (const ProtectionInfo& p : protections()) {
    list += fmt::format("- {}: {}\n", code(p.kind), p.meaning);
    if (p.nets == ServerNets::kOne) one_net.push_back(code(p.kind));
    if (!p.noise) without_noise.push_back(code(p.kind));
  }
  return fmt::format(
      "{}\nThe kinds of one net ({}) ignore `ensemble.nets` and `ensemble.selected`. "
      "`ensemble.sigma` is ignored by {}.\n",
      list, join(one_net), join(without_noise));
}

// The lines of disguises.inc.
std::string disguises() {
  std::string list = "\n";
#define DISGUISE(name, title, keyed, meaning) \
  list += fmt::format("- {}: {}\n", code(#name), meaning);
#include "proto/disguises.inc"
#undef DISGUISE
  return list;
}

std::string about(const pb::Descriptor& type) {
  std::string text = type.options().GetExtension(schema::about) + "\n";
  if (type.full_name() == ProtectionConfig::descriptor()->full_name()) text += protection_kinds();
  if (type.full_name() == DisguiseConfig::descriptor()->full_name()) text += disguises();
  return text;
}

// Of the messages in RunConfig.
std::string old_names(const std::vector<Section>& sections) {
  std::string rows;
  for (const Section& section : sections) {
    for (int i = 0; i < section.type->field_count(); ++i) {
      if (!section.type->field(i)->options().HasExtension(schema::moved_to)) continue;
      const std::string old = section.paths[0] + "." + section.type->field(i)->name();
      rows += fmt::format("| {} | {} |\n", code(old), code(current_path(old)));
    }
  }
  return "\n### Old names\n\nStill read, in files and with `--set`, for one version:\n\n"
         "| old | new |\n|---|---|\n" +
         rows;
}

}  // namespace

std::string config_manual() {
  std::string out = kIntroduction;
  std::vector<const pb::Descriptor*> roots;
  for (const pb::Descriptor* root :
       {RunConfig::descriptor(), SweepConfig::descriptor(), CloudConfig::descriptor(),
        EdgeConfig::descriptor(), WorkerConfig::descriptor()}) {
    std::vector<Section> sections;
    collect(root, "", roots, sections);
    roots.push_back(root);
    for (const Section& section : sections) {
      std::vector<std::string> paths;
      for (const std::string& path : section.paths) paths.push_back(code(path));
      const bool is_root = section.type == root;
      out +=
          fmt::format("\n{} {}\n\n{}{}", is_root ? "##" : "###",
                      is_root ? root->name() : join(paths), about(*section.type), table(section));
    }
    if (root == RunConfig::descriptor()) out += old_names(sections);
  }
  return out;
}

}  // namespace ens
