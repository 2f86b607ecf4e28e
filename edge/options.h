// SPDX-License-Identifier: Apache-2.0
// The command line of ensembler-edge.
#pragma once

#include <string>
#include <vector>

#include "edge/watch.h"
#include "nn/data/dataset.h"
#include "proto/config.h"

namespace ens {

struct EdgeOptions {
  EdgeConfig config;  // complete()
  // What to classify: files and folders, or one video or camera; or a data set.
  std::vector<std::string> inputs;
  DataOptions data;           // without a name: no data set
  std::string record_probes;  // the file that probes are written to; empty: classify
  bool resize = false, as_json = false;
  WatchOptions watch;
};

// Ends the process for --help. Usage Error for options that are malformed or do not go together.
EdgeOptions parse_options(int argc, char** argv);

}  // namespace ens
