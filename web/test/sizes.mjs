// SPDX-License-Identifier: Apache-2.0
// node sizes.mjs PAGES: what a first visit loads stays small: 90 kB of script and 15 kB of style, gzipped.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const most = { js: 90_000, css: 15_000 };
let failed = false;
for (const name of readdirSync(process.argv[2])) {
  const bytes = readFileSync(join(process.argv[2], name));
  const packed = gzipSync(bytes, { level: 9 }).length;
  const limit = most[name.split(".").pop()];
  console.log(`${name}: ${bytes.length} bytes, ${packed} gzipped${limit ? ` of ${limit}` : ""}`);
  if (limit && packed > limit) failed = true;
  if (/https?:\/\/(?!www\.w3\.org\/)/.test(bytes.toString("latin1"))) {
    console.log(`${name} names an address outside`);
    failed = true;
  }
}
process.exit(failed ? 1 : 0);
