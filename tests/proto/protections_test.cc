// SPDX-License-Identifier: Apache-2.0
// The lists of protections and attacks, as data.
#include "proto/protections.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "proto/attacks.h"
#include "proto/config.h"

namespace ens {
namespace {

TEST(Protections, AreInTheOrderOfTablesWithNamesOfTheirOwn) {
  std::set<std::string> kinds, titles;
  for (size_t i = 0; i < protections().size(); ++i) {
    const ProtectionInfo& protection = protections()[i];
    EXPECT_EQ(protection_rank(protection.kind), i);
    EXPECT_EQ(find_protection(protection.kind), &protection);
    EXPECT_FALSE(protection.meaning.empty()) << protection.kind;
    kinds.insert(protection.kind);
    titles.insert(protection.title);
  }
  EXPECT_EQ(kinds.size(), protections().size());
  EXPECT_EQ(titles.size(), protections().size());
  EXPECT_EQ(protections().front().kind, unprotected_kind());
  EXPECT_EQ(find_protection("auto"), nullptr);
  EXPECT_EQ(protection_rank("no such kind"), protections().size());
  EXPECT_THROW(protection_info("no such kind"), Error);
}

// What a kind does not use is cleared, so that equal experiments have equal configurations.
TEST(Protections, SayWhichSettingsTheyIgnore) {
  for (const ProtectionInfo& protection : protections()) {
    RunConfig config;
    apply_overrides({"protection.kind=" + protection.kind, "ensemble.nets=5", "ensemble.selected=3",
                     "ensemble.sigma=0.7", "ensemble.lambda=2"},
                    config);
    complete(config);
    const EnsembleConfig& e = config.ensemble();
    EXPECT_EQ(e.nets(), protection.nets == ServerNets::kOne ? 1 : 5) << protection.kind;
    EXPECT_EQ(e.selected(), protection.nets == ServerNets::kOne        ? 1
                            : protection.nets == ServerNets::kSelected ? 3
                                                                       : 5)
        << protection.kind;
    EXPECT_EQ(e.lambda(), protection.nets == ServerNets::kSelected ? 2 : 0) << protection.kind;
    EXPECT_EQ(e.sigma(), protection.noise ? 0.7 : 0) << protection.kind;
  }
}

TEST(AttackRank, TheFloorComesLastAndUnknownAttacksBeforeIt) {
  EXPECT_EQ(attack_rank("oracle"), 0u);
  EXPECT_LT(attack_rank("shadow-n1"), attack_rank("shadow-adaptive"));
  EXPECT_LT(attack_rank("alignment-shadow"), attack_rank("an attack of a newer version"));
  EXPECT_LT(attack_rank("an attack of a newer version"), attack_rank("mean-image"));
}

}  // namespace
}  // namespace ens
