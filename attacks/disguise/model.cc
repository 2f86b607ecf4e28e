// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/model.h"

#include <algorithm>

#include "attacks/disguise/assignment.h"
#include "nn/autograd/ops.h"

namespace ens {

Tensor logits_of(Module& model, const Tensor& rows, const AttackContext& context) {
  constexpr int64_t kBatch = 256;
  const NoGrad no_grad;
  Tensor out;
  for (int64_t first = 0; first < rows.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, rows.dim(0) - first);
    const Var x(rows.rows(first, n).to(context.device));
    const Tensor logits = model.forward(x).value().to(Dtype::kF32).to(Device{}).plain();
    if (!out.defined()) out = Tensor::empty({rows.dim(0), logits.dim(1)});
    out.rows(first, n).copy_from(logits);
  }
  return out;
}

double accuracy_of(const Tensor& logits, const Tensor& labels, bool renamed) {
  if (!renamed) return accuracy(logits, labels);
  const std::vector<int32_t> said = argmax_rows(logits);
  const int64_t classes = logits.dim(1);
  std::vector<double> cost(static_cast<size_t>(classes * classes));  // less how often it is said
  for (size_t i = 0; i < said.size(); ++i) {
    cost[static_cast<size_t>(labels.data<int32_t>()[i] * classes + said[i])] -= 1;
  }
  const std::vector<int64_t> name = assign(cost, classes);
  double right = 0;
  for (size_t i = 0; i < said.size(); ++i) {
    right += name[static_cast<size_t>(labels.data<int32_t>()[i])] == said[i];
  }
  return right / static_cast<double>(said.size());
}

}  // namespace ens
