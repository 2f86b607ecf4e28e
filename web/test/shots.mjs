// SPDX-License-Identifier: Apache-2.0
// node shots.mjs ADDRESS OUT PATH...: pictures of pages at both sizes and in both colours, to be looked at. PATH is what
// follows "#/" in the address.
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [address, out, ...paths] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
const base = new URL(address);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
for (const [name, viewport] of [["wide", { width: 1280, height: 800 }], ["narrow", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ viewport, colorScheme });
    const page = await context.newPage();
    page.on("console", (m) => console.log(name, colorScheme, m.type(), m.text()));
    page.on("pageerror", (e) => console.log(name, colorScheme, "error", e.message));
    await page.goto(address);
    await page.waitForSelector("main");
    for (const path of paths) {
      await page.goto(base.origin + "/#/" + path);
      await page.waitForTimeout(900);
      const file = `${(path || "start").replace(/[^\w]+/g, "-").slice(0, 40)}-${name}-${colorScheme}.png`;
      await page.screenshot({ path: `${out}/${file}` });
    }
    await context.close();
  }
}
await browser.close();
