// SPDX-License-Identifier: Apache-2.0
// What ensembler-edge does when its bundle changes while it runs.
#pragma once

#include "proto/status.h"

namespace ens {

void report_reload(const Status& status);  // one line on stderr
// SIGHUP no longer ends the process, but asks to read the bundle again; unless standard input is a
// terminal, which sends it when it goes away.
void reload_on_hangup();
bool take_reload_request();  // whether there was one since the last call

}  // namespace ens
