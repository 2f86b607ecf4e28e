// SPDX-License-Identifier: Apache-2.0
// node build.mjs OUT: bundles src/ into OUT/pages and writes OUT/pages.cc, which embeds them. Run in
// a folder that holds src/ and node_modules/ (web/CMakeLists.txt makes it).
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const out = process.argv[2];
const pages = join(out, "pages");
rmSync(pages, { recursive: true, force: true });
mkdirSync(pages, { recursive: true });

const result = await build({
  entryPoints: ["src/main.tsx"],
  bundle: true,
  minify: true,
  write: false,
  format: "esm",
  target: "es2020",
  jsx: "automatic",
  jsxImportSource: "preact",
  preserveSymlinks: true,
  legalComments: "none",
  outdir: pages,
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "warning",
});

const files = [];
const add = (path, type, bytes) => {
  writeFileSync(join(pages, path), bytes);
  files.push({ path: "/" + path, type, bytes: Buffer.from(bytes) });
};
// A file's name holds a hash of what is in it, so that browsers may keep it for ever.
const hashed = (stem, ending, bytes) =>
  `${stem}.${createHash("sha256").update(bytes).digest("hex").slice(0, 12)}.${ending}`;
const named = {};
for (const file of result.outputFiles) {
  const ending = file.path.endsWith(".css") ? "css" : "js";
  named[ending] = hashed("app", ending, file.contents);
  add(named[ending], ending === "css" ? "text/css; charset=utf-8" : "text/javascript; charset=utf-8", file.contents);
}
const icon = readFileSync("src/icon.svg");
named.icon = hashed("icon", "svg", icon);
add(named.icon, "image/svg+xml", icon);
const index = readFileSync("src/index.html", "utf8")
  .replace("APP_JS", named.js)
  .replace("APP_CSS", named.css)
  .replace("ICON", named.icon);
add("index.html", "text/html; charset=utf-8", index);

// Octal escapes end after three digits, whatever follows.
const literal = (bytes) => {
  let text = '"';
  let width = 0;
  for (const b of bytes) {
    const c = String.fromCharCode(b);
    const piece = c === '"' || c === "\\" ? "\\" + c : c === "?" || b < 32 || b > 126
      ? "\\" + b.toString(8).padStart(3, "0") : c;
    text += piece;
    width += piece.length;
    if (width > 110) {
      text += '"\n    "';
      width = 0;
    }
  }
  return text + '"';
};
let source = '// Made by web/build.mjs.\n#include "studio/studio.h"\n\nnamespace ens {\n\n' +
  "const std::vector<SiteFile>& embedded_pages() {\n  static const std::vector<SiteFile> pages = {\n";
for (const f of files)
  source += `    {"${f.path}", "${f.type}", std::string(\n    ${literal(f.bytes)}, ${f.bytes.length})},\n`;
source += "  };\n  return pages;\n}\n\n}  // namespace ens\n";
writeFileSync(join(out, "pages.cc"), source);
