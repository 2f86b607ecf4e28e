// Shadow network + decoder, query-free (arXiv 2401.10859, section 4; He et al., ACSAC 2019).
//
// A shadow head is trained, on the attacker's data, to feed the client's frozen server nets so that
// a shadow tail classifies well: its features should then resemble the client's. A decoder trained
// on shadow features is applied to what the client sent.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attacks/attack.h"
#include "attacks/decoding.h"
#include "nn/autograd/var.h"

namespace ens {

// A shadow head, trained and frozen.
struct TrainedShadow {
  // Images [B,C,S,S] in [0, 1], float32 or bfloat16 -> features; differentiable. Keeps the head
  // alive.
  std::function<Var(const Var& images)> features;
  double accuracy = 0;  // of the whole shadow classifier on the held-out public images
};

// Trains a shadow head and tail around the given server nets. `weighted`: with a trainable
// selector. `part` names it in messages and seeds it.
TrainedShadow train_shadow(const AdversaryView& view, const AttackOptions& options,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& part);

// One shadow per server net; N reconstructions.
std::unique_ptr<Attack> shadow_n1_attack();
// All server nets at once, weighted by a trainable selector.
std::unique_ptr<Attack> shadow_adaptive_attack();

}  // namespace ens
