// SPDX-License-Identifier: Apache-2.0
// Writes what a network computes and learns to a file: lines "name", then numbers. isa_test
// compares what this prints under several instruction sets.
#include <cstdio>
#include <string>
#include <vector>

#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "nn/models/model.h"
#include "nn/optim/optim.h"
#include "nn/plan/plan.h"

namespace ens {
namespace {

// At most 512 numbers of it.
void print(const std::string& name, const Tensor& t) {
  std::printf("%s\n", name.c_str());
  const std::vector<float> all = t.to_vector();
  for (size_t i = 0; i < all.size(); i += all.size() / 512 + 1) {
    std::printf("%.9g\n", static_cast<double>(all[i]));
  }
}

Tensor images(int64_t batch, uint64_t seed) {
  Tensor x = Tensor::empty({batch, 3, 32, 32});
  Rng(seed).fill_uniform(x.span<float>(), 0, 1);
  return x;
}

void run(uint64_t seed) {
  // Widths at which channels do and do not fill vectors.
  for (int width : {16, 6}) {
    ModelSpec spec;
    spec.width = width;
    Rng rng(1);
    const auto net = build_cells(spec, 0, 6, rng);
    const std::string prefix =
        "images " + std::to_string(seed) + " width " + std::to_string(width) + " ";
    const std::vector<int32_t> labels{3, 1, 4, 1, 5, 9, 2, 6};
    softmax_cross_entropy(net->forward(Var(images(8, seed))), Tensor::from_labels(labels))
        .backward();
    for (const NamedVar& p : net->parameters()) print(prefix + "gradient " + p.name, p.var.grad());
    Optimizer(net->parameters(), OptimSpec{}).step(0.01f);
    net->freeze();
    Plan plan(lower(*net, spec.input_shape()), Device{}, Dtype::kF32, 8);
    for (int64_t batch : {1, 8}) {
      print(prefix + "served at batch " + std::to_string(batch), plan.run(images(batch, seed)));
    }
  }
}

}  // namespace
}  // namespace ens

int main() {
  std::printf("%s\n", ens::backend(ens::Device{}).description().c_str());
  for (uint64_t seed : {4, 5, 6}) ens::run(seed);
}
