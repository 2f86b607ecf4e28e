// SPDX-License-Identifier: Apache-2.0
// The rooms, in the order of the navigation. A new one is a folder here, a line in this list, and a
// Room in the server (studio/room.h), which says whether it is there.
import type { ComponentType } from "preact";
import { CloudRoom } from "./cloud";
import { DisguiseRoom } from "./disguise";
import { MatrixRoom } from "./matrix";
import { SplitRoom } from "./split";
import { StartPage } from "./start";

export const rooms: { name: string; title: string; server: boolean; page: ComponentType }[] = [
  { name: "", title: "Overview", server: false, page: StartPage },
  { name: "disguise", title: "Disguise", server: true, page: DisguiseRoom },
  { name: "cloud", title: "Cloud", server: true, page: CloudRoom },
  { name: "split", title: "Split inference", server: true, page: SplitRoom },
  { name: "matrix", title: "Matrix", server: true, page: MatrixRoom },
];
