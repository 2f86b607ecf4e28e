// SPDX-License-Identifier: Apache-2.0
// In place of the pages, where they are not built (ENS_STUDIO).
#include "studio/studio.h"

namespace ens {

const std::vector<SiteFile>& embedded_pages() {
  static const std::vector<SiteFile> none;
  return none;
}

}  // namespace ens
