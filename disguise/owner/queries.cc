// SPDX-License-Identifier: Apache-2.0
#include "disguise/owner/queries.h"

#include "base/error.h"

namespace ens {

DisguisedQueries::DisguisedQueries(const DisguiseKey& key, const std::string& key_id,
                                   const Shape& row, const std::string& model)
    : transform_(key.transform()), names_(key.renamed_classes()), fresh_(key.fresh("query")) {
  const InstahideConfig& mixing = key.settings().instahide();
  if (key.method() == "instahide" && mixing.queries() == "mixed") answers_ = mixing.answers();
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
  Shape shape = images.shape();
  shape.set(0, answers_ * images.dim(0));
  Tensor pixels = Tensor::empty(shape);
  const int64_t size = images.dim(0) > 0 ? images.numel() / images.dim(0) : 0;
  for (int64_t i = 0; i < pixels.numel(); ++i) {
    pixels.data<float>()[i] = 255 * images.data<float>()[i / size / answers_ * size + i % size];
  }
  return transform_->apply(pixels, fresh_);
}

Tensor DisguisedQueries::own_classes(const Tensor& logits) const {
  const auto classes = static_cast<int64_t>(names_.size());
  if (logits.rank() != 2 || logits.dim(1) != classes || logits.dim(0) % answers_ != 0) {
    fail("these are no logits of " + std::to_string(classes) + " classes: " + logits.shape().str(),
         "disguise");
  }
  Tensor own = Tensor::zeros({logits.dim(0) / answers_, classes});
  for (int64_t row = 0; row < logits.dim(0); ++row) {
    for (int64_t c = 0; c < classes; ++c) {
      own.data<float>()[row / answers_ * classes + c] +=
          logits.data<float>()[row * classes + names_[static_cast<size_t>(c)]] /
          static_cast<float>(answers_);
    }
  }
  return own;
}

}  // namespace ens
