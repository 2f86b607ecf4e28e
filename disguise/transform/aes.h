// SPDX-License-Identifier: Apache-2.0
// AES on pictures: block by block (DisguisedNets), and in counter mode, the negative control
// (OpenSSL).
#pragma once

#include "disguise/transform/blocks.h"

namespace ens {

enum class AesKeys {
  kOne,
  kPosition,
  kChannel
};  // for all units; for each position of a unit; for each channel

struct AesParameters {
  int unit_height = 4, unit_width = 4;  // pixels that are encrypted together: 1, 2 or 4 each
  AesKeys keys = AesKeys::kOne;
  Tensor key_bytes;  // uint8 [keys, 16 or 32]
};

// AES-ECB of every unit of every channel, without padding: pixels, rounded to 0..255, are repeated
// so that a unit fills 4 x 4 bytes, row by row. Units of fewer than 4 x 4 pixels give larger
// pictures. Error if the unit's sides are no divisors of 4, or if there are too few keys or such of
// another size.
std::unique_ptr<Transform> aes_transform(const ImageShape& image, const AesParameters& parameters);

// AES-CTR of every image's bytes [C, H, W] under a nonce of its own, which is forgotten. key: uint8
// [16 or 32].
std::unique_ptr<Transform> aesctr_transform(const ImageShape& image, const Tensor& key);

}  // namespace ens
