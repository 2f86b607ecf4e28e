// SPDX-License-Identifier: Apache-2.0
#include "disguise/owner/queries.h"

#include "base/error.h"

namespace ens {

DisguisedQueries::DisguisedQueries(const DisguiseKey& key, const std::string& key_id,
                                   const Shape& row, const std::string& model)
    : transform_(key.transform()), names_(key.renamed_classes()), fresh_(key.fresh("query")) {
  if (key_id != key.id()) {
    usage_fail("the model was trained on a set of key " + key_id + ", and this is key " + key.id(),
               model, "give the key of that set; nothing was sent");
  }
  if (!(row == transform_->output_shape())) {
    fail("the model reads rows of " + row.str() + ", and the key makes " +
             transform_->output_shape().str(),
         model, "was it trained on a set of this key?");
  }
}

Tensor DisguisedQueries::disguise(const Tensor& images) {
  Tensor pixels = images.clone();
  for (float& pixel : pixels.span<float>()) pixel *= 255;
  return transform_->apply(pixels, fresh_);
}

Tensor DisguisedQueries::own_classes(const Tensor& logits) const {
  const auto classes = static_cast<int64_t>(names_.size());
  if (logits.rank() != 2 || logits.dim(1) != classes) {
    fail("these are no logits of " + std::to_string(classes) + " classes: " + logits.shape().str(),
         "disguise");
  }
  Tensor own = Tensor::empty(logits.shape());
  for (int64_t b = 0; b < logits.dim(0); ++b) {
    for (int64_t c = 0; c < classes; ++c) {
      own.data<float>()[b * classes + c] =
          logits.data<float>()[b * classes + names_[static_cast<size_t>(c)]];
    }
  }
  return own;
}

}  // namespace ens
