// SPDX-License-Identifier: Apache-2.0
// Queries: what the owner sends to be classified, and what she makes of the answer.
#pragma once

#include <string>

#include "disguise/key/key.h"

namespace ens {

// For one owner, who sends many queries. One thread at a time.
class DisguisedQueries {
 public:
  // Of a model trained on sets of key `key_id` (16 hex digits), with rows of this shape: usage
  // Error, naming `model`, if it is not this key's, so that nothing disguised under another key is
  // sent.
  DisguisedQueries(const DisguiseKey& key, const std::string& key_id, const Shape& row,
                   const std::string& model);

  // images: float32 [B, C, H, W] in [0, 1] -> what to send, float32 [B * A, row]: A rows for each
  // image, which are one but for the mixtures of `instahide`.
  Tensor disguise(const Tensor& images);
  // Logits [B * A, K] as the model gives them -> their means over the rows of an image, [B, K], in
  // the order of the key's class names.
  Tensor own_classes(const Tensor& logits) const;

 private:
  std::unique_ptr<Transform> transform_;
  std::vector<int32_t> names_;
  int64_t answers_ = 1;  // A
  FreshRandomness fresh_;
};

}  // namespace ens
