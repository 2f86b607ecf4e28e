// SPDX-License-Identifier: Apache-2.0
import type { Group } from "./types";

// What to show when nobody has chosen: the newest sweep with a result, else the newest folder.
export function mainGroup(groups: Group[]): Group | undefined {
  const filled = groups.filter((g) => (g.runs ?? 0) > 0 && g.id !== "all");
  return filled.find((g) => g.sweep) ?? filled[0] ?? groups[0];
}
