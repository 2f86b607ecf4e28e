// SPDX-License-Identifier: Apache-2.0
// Finished runs as the pages see them (proto/studio.proto).
#pragma once

#include "proto/studio.pb.h"
#include "studio/index.h"
#include "studio/pictures.h"

namespace ens {

// The run that an id names. Refusal 404.
const Index::Run& find_run(const Index::Snapshot& snapshot, const std::string& id);

// Everything of one run but its curves. An unfinished or damaged one has an entry and a reason.
// A command line without what run_view() leaves out of the settings: "--set seed=..." stands for
// "--set seed=4711".
std::string public_command(const std::string& command);

studio::RunView run_view(const Index::Run& run, const Index& index, Pictures& pictures);

// Its curves: at most `most` points a line. Of neighbours the smallest and the largest are kept.
studio::Curves curves_view(const Index::Run& run, const std::string& metric, int most);

// The table of a folder: what `ensembler report` compares.
studio::Matrix matrix_view(const Index::Group& group, const Index& index);

}  // namespace ens
