// SPDX-License-Identifier: Apache-2.0
// Watching a video or camera: its frames go to the cloud one after the other, and the five best
// classes are shown as they come.
#pragma once

#include <string>

#include "proto/config.pb.h"

namespace ens {

struct WatchOptions {
  double fps = 0;     // at most so many frames a second; 0: all
  bool live = false;  // a file at its own speed, leaving out frames, as a camera
  bool as_json = false;
};

// Until the source ends, or SIGINT or SIGTERM. Results go to stdout: a block that is drawn again on
// a terminal, else a line a frame; a summary to stderr. Error if the source or the cloud fails.
void watch(const std::string& source, const EdgeConfig& config, const WatchOptions& options);

}  // namespace ens
