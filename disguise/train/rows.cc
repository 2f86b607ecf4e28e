// SPDX-License-Identifier: Apache-2.0
#include "disguise/train/rows.h"

#include <algorithm>

#include "disguise/train/evaluate.h"
#include "nn/autograd/ops.h"

namespace ens {
namespace {

constexpr int64_t kChunk = kDisguisedChunkRows;

}  // namespace

SetRows::SetRows(const DisguisedSetReader& set, int64_t open_bytes)
    : set_(set),
      labels_(set.labels()),
      soft_labels_(set.soft_labels()),
      open_chunks_(std::max<int64_t>(2, open_bytes / (kChunk * set.info().shape.numel() * 4))) {}

int64_t SetRows::chunk() const { return kChunk; }

const float* SetRows::row(int64_t index) {
  const int64_t chunk = index / kChunk;
  if (const auto found = by_index_.find(chunk); found != by_index_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
  } else {
    if (std::ssize(recent_) == open_chunks_) {
      by_index_.erase(recent_.back().index);
      recent_.pop_back();
    }
    const int64_t first = chunk * kChunk;
    recent_.push_front({chunk, set_.rows(first, std::min(kChunk, count() - first))});
    by_index_[chunk] = recent_.begin();
  }
  return recent_.front().rows.data<float>() + (index % kChunk) * set_.info().shape.numel();
}

Batch SetRows::read(std::span<const LoadedRow> rows) {
  const auto count = std::ssize(rows);
  const int64_t size = set_.info().shape.numel();
  const bool soft = soft_labels_.defined();
  const int64_t classes = set_.info().classes;
  Batch batch{Tensor::empty(batched(count, set_.info().shape)),
              soft ? Tensor::empty({count, classes}) : Tensor::empty({count}, Dtype::kI32)};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = rows[static_cast<size_t>(i)].row;
    std::copy_n(row(from), size, batch.images.data<float>() + i * size);
    if (soft) {
      std::copy_n(soft_labels_.data<float>() + from * classes, classes,
                  batch.labels.data<float>() + i * classes);
    } else {
      batch.labels.data<int32_t>()[i] = labels_[static_cast<size_t>(from)];
    }
  }
  return batch;
}

double set_accuracy(Plan& plan, const DisguisedSetReader& set, int64_t rows,
                    const std::function<void()>& each_batch) {
  const std::vector<int32_t> labels = set.labels();
  rows = std::min(rows, set.info().rows);
  double right = 0;
  for (int64_t first = 0; first < rows; first += kEvaluationBatch) {
    each_batch();
    const int64_t n = std::min(kEvaluationBatch, rows - first);
    const Tensor logits = plan.run(set.rows(first, n)).to(Device{});
    const auto own = std::span(labels).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
    right += accuracy(logits, Tensor::from_labels(own)) * static_cast<double>(n);
  }
  return right / static_cast<double>(rows);
}

}  // namespace ens
