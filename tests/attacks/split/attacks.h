// SPDX-License-Identifier: Apache-2.0
// Running attacks of attacks/split in tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attacks/split/registry.h"

namespace ens::test {

// The attack as one on a view of this type; a null pointer is a failed cast: the attack is granted
// something else.
template <typename View>
std::vector<Reconstruction> run_on(const std::string& name, const View& view,
                                   const AttackContext& context) {
  return dynamic_cast<AttackOn<View>&>(*make_attack(name)).run_on(view, context);
}

template <typename Field, typename List>
void set_list(Field* field, const List& values) {
  field->Clear();
  for (const auto& value : values) field->Add(value);
}
template <typename Field>
void set_list(Field* field, std::initializer_list<int64_t> values) {
  set_list<Field, std::initializer_list<int64_t>>(field, values);
}

inline SplitSetting setting_of(const SplitVictim& victim) {
  return {victim.model,
          victim.split,
          static_cast<int>(victim.bodies.size()),
          static_cast<int>(victim.subset.size()),
          victim.public_data->count(),
          victim.observed.dim(0),
          victim.training_data ? victim.training_data()->count() : 0};
}

}  // namespace ens::test
