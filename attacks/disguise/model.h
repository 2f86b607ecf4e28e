// SPDX-License-Identifier: Apache-2.0
// What attackers do with the model that was trained on a disguised set (internal to this folder).
#pragma once

#include <span>

#include "attacks/disguise/views.h"

namespace ens {

// Rows [B,...], as the cloud gets them -> logits [B,K], float32 on the CPU; in batches.
Tensor logits_of(Module& model, const Tensor& rows, const AttackContext& context);

// The share of rows whose label [B] is the model's class. `renamed`: the owner may have renamed the
// classes; then by the renaming that fits best.
double accuracy_of(const Tensor& logits, const Tensor& labels, bool renamed);

}  // namespace ens
