// SPDX-License-Identifier: Apache-2.0
#include "lab/shares_accuracy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/progress.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "offload/schemes/products.h"

namespace ens {
namespace {

class LocalWorkers : public BlindedProducts::Workers {
 public:
  LocalWorkers(const Int8Net& net, const Scheme& scheme) : net_(net), scheme_(scheme) {}

  Outcome run(int, int needed, int, const BlindedProducts::Make& make,
              const BlindedProducts::Judge& judge) override {
    for (int share = 0; share < needed; ++share) {
      const BlindedProducts::Job job = make(share);
      const std::vector<std::byte> products = compute(job);
      if (!judge(share, {.step = job.step, .share = share, .frame = products}).empty())
        return Outcome::kFailed;
    }
    return Outcome::kDone;
  }

 private:
  std::vector<std::byte> compute(const BlindedProducts::Job& job) const {
    const Int8Group& group = net_.groups[job.group];
    const int64_t rows = scheme_.planes() * job.batches;
    Tensor frame = job.data.frame;
    if (job.data.seed) {
      frame = Tensor::empty(batched(rows, group.input), Dtype::kI8);
      std::vector<uint32_t> elements(static_cast<size_t>(frame.numel() / scheme_.planes()));
      expand_seed(*job.data.seed, scheme_.field(), elements);
      to_planes(scheme_.field(), elements, frame.span<int8_t>());
    }
    const Tensor x = frame.reshape(batched(rows, group.input));
    std::vector<std::byte> out;
    const auto append = [&](const void* from, size_t bytes) {
      const auto* begin = static_cast<const std::byte*>(from);
      out.insert(out.end(), begin, begin + bytes);
    };
    for (const Int8Step& step : group.steps) {
      if (scheme_.numbers() == ShareNumbers::kResidues) {
        const auto residues = multiply(scheme_.field(), step.layer, x);
        std::vector<int8_t> planes(residues.size() * static_cast<size_t>(scheme_.planes()));
        to_planes(scheme_.field(), residues, planes);
        append(planes.data(), planes.size());
      } else {
        const Tensor y = multiply(step.layer, x).plain();
        append(y.host(), y.bytes());
      }
    }
    return out;
  }

  const Int8Net& net_;
  const Scheme& scheme_;
};

double relative_error(const Tensor& found, const Tensor& right) {
  double difference = 0, largest = 1;
  const auto a = found.span<int32_t>(), b = right.span<int32_t>();
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

bool among_best(std::span<const float> logits, size_t label, int64_t best) {
  return std::ranges::count_if(logits, [&](float v) { return v > logits[label]; }) < best;
}

}  // namespace

SharesAccuracy shares_accuracy(const Int8Net& net, Scheme& scheme, const Dataset& test,
                               int64_t images) {
  constexpr int64_t kBatch = 128;
  LocalWorkers workers(net, scheme);
  BlindedProducts blinded(net, scheme, workers, {.check = false});
  SharesAccuracy out;
  const auto products = [&](size_t group, const Tensor& x) {
    std::vector<Tensor> y = blinded(group, x);
    for (size_t i = 0; i < y.size(); ++i) {
      const Tensor right = multiply(net.groups[group].steps[i].layer, x).plain();
      out.layer_error = std::max(out.layer_error, relative_error(y[i], right));
    }
    return y;
  };
  Progress progress("accuracy under shares", images);
  for (int64_t first = 0; first < images; first += kBatch) {
    const Tensor x = images_of(test, first, std::min(kBatch, images - first));
    const Tensor logits = run_int8(net, x, products);
    const auto found = argmax_rows(logits), exact = argmax_rows(run_int8(net, x));
    const auto classes = static_cast<size_t>(logits.dim(1));
    for (size_t i = 0; i < found.size(); ++i) {
      const auto row = logits.span<float>().subspan(i * classes, classes);
      const auto label = static_cast<size_t>(test.labels[static_cast<size_t>(first) + i]);
      out.top1 += found[i] == static_cast<int32_t>(label);
      out.top5 += among_best(row, label, 5);
      out.changed += found[i] != exact[i];
    }
    progress.add(x.dim(0));
  }
  progress.finish();
  out.top1 /= static_cast<double>(images);
  out.top5 /= static_cast<double>(images);
  return out;
}

}  // namespace ens
