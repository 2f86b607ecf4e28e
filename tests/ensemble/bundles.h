// Small ensembles with random weights, and a folder to put them in.
#pragma once

#include <filesystem>

#include "ensemble/model/bundle.h"
#include "ensemble/model/edge_bundle.h"

namespace ens::test {

// Removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct Bundles {
  CloudBundle cloud;
  EdgeBundle edge;
};

// A ResNet-18 for 16x16 pictures, width 4 unless said, 10 classes; N nets of which `selected` are
// the client's. Batch-norm statistics are random too. The same seed gives the same weights,
// whatever is selected.
Bundles random_bundles(uint64_t seed, int nets = 4, std::vector<int> selected = {1, 3},
                       int width = 4, int tail = 1);

// Writes cloud.h5 and edge.h5; sets the fingerprint.
void write(Bundles& bundles, const std::filesystem::path& folder);

// What the whole ensemble answers, computed by the modules themselves: no plan, no selector's own
// code, no wire. images [B, 3, 16, 16] -> logits [B, 10].
Tensor expected_logits(const Bundles& bundles, const Tensor& images);

Tensor random_images(const ModelSpec& spec, int64_t count, uint64_t seed);

}  // namespace ens::test
