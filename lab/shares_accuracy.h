// SPDX-License-Identifier: Apache-2.0
// What blinding costs a network's accuracy, with workers inside this process: who computes the
// products makes no difference to it.
#pragma once

#include <cstdint>

#include "nn/data/dataset.h"
#include "nn/plan/int8.h"
#include "offload/core/scheme.h"

namespace ens {

struct SharesAccuracy {
  double top1 = 0, top5 = 0;  // shares of the images
  int64_t changed = 0;        // predictions other than the int8 network's
  // The largest error of a decoded product of any layer, relative to the layer's largest product.
  double layer_error = 0;
};

// Of images [0, images) of the data set. `scheme` is new.
SharesAccuracy shares_accuracy(const Int8Net& net, Scheme& scheme, const Dataset& test,
                               int64_t images);

}  // namespace ens
