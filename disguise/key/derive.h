// SPDX-License-Identifier: Apache-2.0
// From a master key to a method's parameters (internal to this folder).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/key_stream.h"
#include "disguise/key/key.h"
#include "disguise/transform/instahide.h"
#include "disguise/transform/transform.h"
#include "proto/config.pb.h"

namespace ens {

using Parameters = std::map<std::string, Tensor>;

// The key of the stream for one part of a key: HKDF of the master key with info
// "ens-disguise/1/METHOD/PART/INDEX".
Seed derive_seed(const Tensor& master, const std::string& method, const std::string& part,
                 int64_t index);

// How a method's parameters follow from the master key, and what they make. Usage Error for
// settings that do not fit the images.
struct DisguiseMethod {
  Parameters (*derive)(const Tensor& master, const DisguiseConfig& settings,
                       const ImageShape& image);
  std::unique_ptr<Transform> (*transform)(const Parameters& parameters,
                                          const DisguiseConfig& settings, const ImageShape& image);
  // Adds the parameters that come from images, and not from the master key. Null: there are none.
  void (*measure)(Parameters& parameters, const DisguiseConfig& settings, const ImageShape& image,
                  const KeySamples& samples) = nullptr;
};
// What instahide mixes queries with.
InstahideParameters instahide_parameters(const Parameters& parameters,
                                         const DisguiseConfig& settings);

const DisguiseMethod& disguise_method(
    const std::string& name);  // usage Error for one that is not known

}  // namespace ens
