// SPDX-License-Identifier: Apache-2.0
#include "lab/fetch.h"

#include <memory>

#include "base/progress.h"
#include "nn/data/fetch.h"

namespace ens {

void fetch_with_bars(const std::string& name, const std::filesystem::path& root) {
  // One bar per file: its length is known only once the transfer has begun.
  std::unique_ptr<Progress> bar;
  FetchProgress last;
  fetch_dataset(name, root, [&](const FetchProgress& now) {
    if (!bar || now.file != last.file || now.total != last.total || now.done < last.done) {
      bar = std::make_unique<Progress>(now.file, now.total, "bytes");
      last = {now.file, 0, now.total};
    }
    bar->add(now.done - last.done);
    last = now;
  });
}

}  // namespace ens
