// SPDX-License-Identifier: Apache-2.0
// The kinds of protection that translation knows, and what each means there.
#pragma once

#include <string>
#include <vector>

namespace ens {

enum class TextProtection {
  kNone,
  kNoiseAfterwards,  // added to a network that was trained without it
  kNoise,            // one network, trained with its noise
  kEnsemble,         // stages 1 and 2 of arXiv 2401.10859
};
// Error for a kind that has no meaning for text.
TextProtection text_protection(const std::string& kind);
std::vector<std::string> text_protections();

}  // namespace ens
