// SPDX-License-Identifier: Apache-2.0
// A channel of limited power: k elements are scaled to a mean square of P, Gaussian noise of
// variance 1 is added to each, and the sums are rounded to the steps of int8. Whatever the images
// and whoever receives it, what is sent carries at most
//   R = (k / 2) log2(1 + P)
// bits of information about the image (Shannon, 1949): the mean square is P for every image, and
// rounding adds nothing. docs/channel.md says what that means and what it does not.
#pragma once

#include <cstdint>
#include <optional>

#include "ensemble/protect/protection.h"

namespace ens {

struct Channel {
  double bits = 0;       // R
  int64_t elements = 0;  // k
  double power = 0;      // P
  bool keyed = false;    // in use the noise comes from a device's key and the image
  // What is sent are multiples of this, -127 to 127 times; int8 carries it.
  float int8_step = 0;

  // R for m sends of one image, each with noise of its own: (k / 2) log2(1 + m P).
  double bits_of_sends(double m) const;
};

// Usage Error, naming protection.channel.bits, unless int8 can carry so many bits: its steps are at
// most half of the noise's deviation.
Channel make_channel(double bits, int64_t elements, bool keyed);

// The largest P whose features int8 can carry.
double largest_channel_power();

// For a ProtectionSpec.
ProtectionStep channel_step(const Channel& channel);
// The channel of a spec that fits features of that size; nothing if it has none.
std::optional<Channel> find_channel(const ProtectionSpec& spec, int64_t elements);

}  // namespace ens
