// Inverse networks on true pairs (He et al., ACSAC 2019, section 4.3): a decoder trained on the
// client's own features. With unlimited queries it is the oracle: what leaks at the very most.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attacks/core/attack.h"

namespace ens {

std::unique_ptr<Attack> oracle_attack();

// With m known pairs, for every m of options.pairs: a curve. For each m the attacker tries a linear
// decoder, an inverse network on the pairs, and (up to a thousand pairs) a copy of the client's
// head fitted to the pairs, on whose features of its public images an inverse network is trained;
// it keeps what reconstructs best some pairs that were held out. Never chosen with the truth.
std::unique_ptr<Attack> known_pairs_attack();

// The numbers of pairs it will try: options.pairs, at most `available`, ascending, each once.
std::vector<int64_t> pair_counts(const AttackOptions& options, int64_t available);

}  // namespace ens
