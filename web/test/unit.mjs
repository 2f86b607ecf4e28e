// SPDX-License-Identifier: Apache-2.0
// node unit.mjs: bundles test/unit/*.test.ts, which node cannot read itself, and runs them with node's own runner.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";

const tests = readdirSync("test/unit").filter((f) => f.endsWith(".test.ts"));
await build({
  entryPoints: tests.map((f) => "test/unit/" + f), bundle: true, platform: "node", format: "esm", outdir: "unit",
  outExtension: { ".js": ".mjs" }, preserveSymlinks: true, jsx: "automatic", jsxImportSource: "preact", logLevel: "warning",
});
const run = spawnSync(process.execPath, ["--test", ...tests.map((f) => "unit/" + f.replace(/\.ts$/, ".mjs"))], { stdio: "inherit" });
process.exit(run.status ?? 1);
