// SPDX-License-Identifier: Apache-2.0
// node browser.mjs ENSEMBLER SCREENSHOTS: the studio in Chromium, as a person uses it, over run folders of its own. In every
// page: nothing on the console, no request outside the origin, no serious finding of axe, no sideways scroll.
// CHROMIUM names another browser; ENS_STUDIO_ONLY runs the scripts whose name holds it.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { png, writeLargeSweep, writeRun, writeRuns } from "./fixture.mjs";

const [program, shots] = process.argv.slice(2);
const browserPath = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
const skip = (why) => {
  console.log(why);
  process.exit(process.env.ENS_REQUIRE_PEERS ? 1 : 77);
};
if (Number(process.versions.node.split(".")[0]) < 20) skip(`node ${process.versions.node} is too old for playwright-core: install nodejs 20 or later`);
if (!browserPath) skip("no Chromium: apt-get install chromium");
const { chromium } = await import("playwright-core").catch(() => skip("no playwright-core: configure again with the network"));
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");

const home = mkdtempSync(join(tmpdir(), "ens-studio-"));
mkdirSync(shots, { recursive: true });
const servers = new Set();

async function serve(runs, flags = [], port = 0) {
  const ready = join(home, `ready-${Math.random()}`);
  const child = spawn(program, ["studio", "--runs", runs, "--bind", `127.0.0.1:${port}`, "--ready-file", ready, ...flags], { stdio: ["ignore", "ignore", "inherit"] });
  const server = { child, stop: (signal = "SIGTERM") => new Promise((resolve) => { servers.delete(server); child.once("exit", resolve); child.kill(signal); }) };
  servers.add(server);
  for (let i = 0; i < 300 && !existsSync(ready); ++i) {
    assert.equal(child.exitCode, null, "the studio ended");
    await new Promise((r) => setTimeout(r, 50));
  }
  server.address = readFileSync(ready, "utf8").trim();
  server.origin = new URL(server.address).origin;
  return server;
}

// Hosts other than this machine do not exist.
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-background-networking"] });

const sizes = { wide: { width: 1280, height: 800 }, narrow: { width: 390, height: 844 } };
async function visit(server, { size = "wide", colorScheme = "light", address = server.address, quiet = false } = {}) {
  const context = await browser.newContext({ viewport: sizes[size], colorScheme, reducedMotion: "reduce", permissions: [] });
  const page = await context.newPage();
  page.trouble = [];
  page.on("console", (m) => { if (!quiet && ["error", "warning"].includes(m.type())) page.trouble.push(`console: ${m.text()}`); });
  page.on("pageerror", (e) => page.trouble.push(`error: ${e.message}`));
  page.on("request", (r) => { if (!r.url().startsWith(server.origin + "/") && !r.url().startsWith("blob:" + server.origin)) page.trouble.push(`outside: ${r.url()}`); });
  await page.goto(address);
  await page.waitForSelector("main h1");
  return page;
}
async function go(page, server, hash, selector) {
  await page.goto(server.origin + "/#/" + hash);
  await page.waitForSelector(selector);
}
// What holds for every page that a person sees.
async function inspect(page, name) {
  await page.waitForTimeout(150);
  await page.evaluate(axe);
  const found = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations
    .filter((v) => v.impact === "serious" || v.impact === "critical")
    .map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? n.all[0]?.message ?? "")).join("; ")}`));
  assert.deepEqual(found, [], name);
  const layout = await page.evaluate(() => {
    const cut = [...document.querySelectorAll("h1, h2, h3, p, button, label, dt, dd")].filter((e) => {
      const box = e.getBoundingClientRect();
      return box.width > 0 && !e.closest(".scroll, .sr, .help, .picture, .strip, .parties, nav") && (box.right > innerWidth + 1 || box.left < -1);
    }).map((e) => e.tagName + " " + e.textContent.slice(0, 40));
    return { wide: document.documentElement.scrollWidth - innerWidth, cut };
  });
  assert.ok(layout.wide <= 0, `${name} scrolls sideways by ${layout.wide}`);
  assert.deepEqual(layout.cut, [], `${name}: outside the page`);
  assert.deepEqual(page.trouble, [], name);
  await page.screenshot({ path: join(shots, name + ".png") });
}

const scripts = {
  async "every page at both sizes and in both colours"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    for (const size of ["wide", "narrow"]) {
      for (const colorScheme of ["light", "dark"]) {
        const page = await visit(server, { size, colorScheme });
        const name = `${size}-${colorScheme}`;
        await inspect(page, `start-${name}`);
        await go(page, server, "matrix", ".heat table");
        await inspect(page, `matrix-${name}`);
        await page.locator(".cell").first().click();
        await page.waitForSelector(".panel .pair img");
        await inspect(page, `cell-${name}`);
        await page.keyboard.press("Escape");
        await page.waitForSelector(".panel", { state: "detached" });
        await go(page, server, "matrix?view=scatter", ".scatter svg");
        await inspect(page, `scatter-${name}`);
        await go(page, server, "cloud", ".trainings a");
        await page.locator(".trainings a", { hasText: "finished" }).first().click();
        await page.waitForSelector(".plot canvas");
        await inspect(page, `trainings-${name}`);
        await page.locator(".jobs-button").click();
        await page.waitForSelector(".panel");
        await inspect(page, `jobs-${name}`);
        await page.keyboard.press("Escape");
        await page.keyboard.press("?");
        await page.waitForSelector(".panel kbd");
        await inspect(page, `keys-${name}`);
        await page.context().close();
      }
    }
    await server.stop();
  },

  async "a permalink opens the same view in a fresh browser"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const page = await visit(server);
    await go(page, server, "matrix", ".heat table");
    await page.selectOption("label:has-text('Number') select", "psnr");
    await page.selectOption("label:has-text('Attacker knows') select", "query-free");
    await page.locator(".cell").nth(1).click();
    await page.waitForSelector(".panel .pair img");
    const link = page.url();
    const view = (p) => p.evaluate(() => [document.querySelector(".heat table").innerText, document.querySelector(".panel").innerText]);
    const other = await visit(server);
    await other.goto(link);
    await other.waitForSelector(".panel .pair img");
    assert.deepEqual(await view(other), await view(page));
    // Numbers in the page are those of the files.
    assert.match((await view(page))[0], /21\.28|21,28/);
    await server.stop();
  },

  async "two cells are compared, and the table is taken away"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const page = await visit(server);
    await go(page, server, "matrix", ".heat table");
    await page.locator(".cell").nth(0).click();
    await page.getByRole("button", { name: "Compare with another cell" }).click();
    await page.waitForSelector("text=/Open another cell/");
    await page.locator(".cell").nth(1).click();
    await page.waitForSelector("text=Compared with");
    await page.keyboard.press("Escape");
    const file = async (button) => {
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button, exact: true }).click()]);
      return readFileSync(await download.path());
    };
    const csv = (await file("CSV")).toString().trim().split("\n");
    assert.equal(csv.length, 1 + 25);
    assert.match(csv[0], /^setting,data,split,protection,attack/);
    const json = JSON.parse(await file("JSON"));
    assert.equal(json.length, 25);
    assert.equal(json.find((r) => r.protection.startsWith("Ensembler") && r.attack === "alignment").ssim, 0.72);
    assert.equal((await file("PNG")).subarray(1, 4).toString(), "PNG");
    assert.deepEqual(page.trouble, []);
    await server.stop();
  },

  async "by keyboard only"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const page = await visit(server);
    await page.keyboard.press("5");
    await page.waitForSelector(".heat table");
    for (let i = 0; i < 80; ++i) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement.matches(".cell"))) break;
    }
    const where = () => page.evaluate(() => [document.activeElement.dataset.row, document.activeElement.dataset.column]);
    assert.deepEqual(await where(), ["0", "0"]);
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    assert.deepEqual(await where(), ["1", "1"]);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".panel");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".panel", { state: "detached" });
    assert.deepEqual(await where(), ["1", "1"], "the focus returns to the cell");
    await page.keyboard.press("?");
    await page.waitForSelector(".panel kbd");
    await server.stop();
  },

  async "without a token nothing is shown, with a wrong one neither"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const page = await visit(server, { address: server.origin + "/", quiet: true });
    assert.match(await page.innerText("main"), /Sign in/);
    await page.screenshot({ path: join(shots, "sign-in.png") });
    await page.fill("input[type=password]", "0".repeat(64));
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForSelector("text=/token is wrong/i");
    await page.fill("input[type=password]", server.address);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForSelector(".start");
    await server.stop();
  },

  async "a browser without EventSource is told so"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.addInitScript(() => { delete globalThis.EventSource; });
    await page.goto(server.address);
    await page.waitForSelector("text=/has no EventSource/");
    await server.stop();
  },

  async "the address of an old token still signs in who has the cookie, and asks who has not"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const old = server.origin + "/#token=" + "0".repeat(64);
    const page = await visit(server, { address: old, quiet: true });
    assert.match(await page.innerText("main"), /Sign in/);
    await page.fill("input[type=password]", server.address);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForSelector(".start");
    await page.goto("about:blank");
    await page.goto(old);
    await page.waitForSelector(".start");
    await server.stop();
  },

  async "a picture through a trained run"() {
    const runs = join(home, "trained");
    mkdirSync(runs);
    writeFileSync(join(runs, "tiny.txtpb"), `title: "Tiny"
base {
  data { name: "shapes" train_limit: 320 test_limit: 32 public_images: 64 }
  model { architecture: "resnet18" width: 4 } ensemble { nets: 3 selected: 2 sigma: 0.1 }
  stage1 { epochs: 1 batch: 32 } stage2 { epochs: 1 batch: 32 } attack { reference_images: 0 scored_images: 16 public_images: 64 }
}
attack: ["linear-decoder", "mean-image"]
row { name: "ours" set: "protection.kind=ensembler" }
row { name: "deeper" set: "protection.kind=ensembler" set: "model.head_cells=2" }
`);
    const trained = spawnSync(program, ["sweep", join(runs, "tiny.txtpb"), "--out", join(runs, "tiny")], { encoding: "utf8" });
    assert.equal(trained.status, 0, trained.stderr);
    const server = await serve(runs, ["--read-only"]);
    for (const [size, colorScheme] of [["wide", "light"], ["narrow", "dark"]]) {
      const page = await visit(server, { size, colorScheme });
      await go(page, server, "split", ".way img");
      await inspect(page, `split-${size}-${colorScheme}`);
      await page.context().close();
    }
    const page = await visit(server);
    await go(page, server, "split", ".way img");
    const sent = () => page.getAttribute('img[alt="Features as they are sent"]', "src");
    const clean = () => page.getAttribute('img[alt="Features before the protection"]', "src");
    assert.notEqual(await sent(), await clean());
    // Latencies of a real cloud in a process of its own; it vanishes, and the last values stay with their age.
    await page.getByText("Start the studio with --cloud").waitFor();
    const live = await serve(runs, [], 0);
    const watcher = await visit(live);
    await go(watcher, live, "split", ".way img");
    await watcher.getByRole("button", { name: "Start a cloud for this run" }).click();
    await watcher.waitForSelector(".live:not(.old) tbody tr:nth-child(5)", { timeout: 60000 });
    assert.match(await watcher.innerText(".live"), /compute/);
    await inspect(watcher, "split-live");
    const clouds = spawnSync("pgrep", ["-P", String(live.child.pid), "-f", "ensembler-cloud"], { encoding: "utf8" }).stdout.trim().split("\n");
    assert.equal(clouds.length, 1);
    process.kill(Number(clouds[0]), "SIGSTOP");
    await watcher.waitForSelector(".live.old", { timeout: 30000 });
    process.kill(Number(clouds[0]), "SIGCONT");
    await watcher.waitForSelector(".live:not(.old)", { timeout: 30000 });
    await watcher.getByRole("button", { name: "End the cloud" }).click();
    await watcher.getByRole("button", { name: "Start a cloud for this run" }).waitFor();
    assert.deepEqual(watcher.trouble, []);
    await live.stop();
    // The slider moves, is let go, and the picture is computed again with the run's own weights.
    await page.fill('input[type="number"][aria-label^="σ"]', "0");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector('img[alt="Features as they are sent"]').src === document.querySelector('img[alt="Features before the protection"]').src);
    const before = await clean();
    await page.getByRole("button", { name: "Next" }).click();
    await page.waitForFunction((old) => document.querySelector('img[alt="Features before the protection"]').getAttribute("src") !== old, before);
    // h jumps to the other trained run; a split that nobody trained only shows what it would cost.
    const run = () => new URLSearchParams(new URL(page.url()).hash.split("?")[1]).get("run");
    const first = await run();
    await page.locator(".handle").first().focus();
    await page.keyboard.press(/h = 1/.test(await page.innerText(".room-head")) ? "ArrowRight" : "ArrowLeft");
    await page.waitForFunction((old) => new URLSearchParams(location.hash.split("?")[1]).get("run") !== old, first);
    await page.waitForSelector(".way img");
    const here = await run();
    await page.locator(".handle").nth(1).focus();
    await page.keyboard.press("ArrowLeft");
    await page.waitForSelector("text=/Nobody has trained this split/");
    assert.equal(await run(), here);
    // Dragging, and no long task meanwhile.
    await page.evaluate(() => {
      globalThis.long = [];
      new PerformanceObserver((list) => globalThis.long.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask" });
    });
    const box = await page.locator(".handle circle").first().boundingBox();
    await page.mouse.move(box.x + 4, box.y + 4);
    await page.mouse.down();
    for (let i = 0; i < 40; ++i) await page.mouse.move(box.x + 4 + 8 * i, box.y + 4);
    await page.mouse.up();
    const long = await page.evaluate(() => globalThis.long);
    console.log(JSON.stringify({ "longest task while dragging, ms": Math.round(Math.max(0, ...long)) }));
    const times = await page.evaluate(async (id) => {
      const out = [];
      for (let i = 0; i < 11; ++i) {
        const begin = performance.now();
        await (await fetch("/api/v1/split/trace", { method: "POST", headers: { "X-Ens": "1", "Content-Type": "application/json" }, body: JSON.stringify({ run: id, image: i, visitor: "t" }) })).json();
        out.push(performance.now() - begin);
      }
      return out.sort((a, b) => a - b)[5];
    }, here);
    console.log(JSON.stringify({ "split trace, median ms": Math.round(times) }));
    assert.deepEqual(page.trouble, []);
    await server.stop();
  },

  async "figure 4: from a data set to an attack and an upload"() {
    const runs = join(home, "disguise");
    mkdirSync(runs);
    const server = await serve(runs);
    const page = await visit(server);
    await go(page, server, "disguise", ".pane img");
    await page.waitForSelector(".pane:nth-child(2) img");
    // Whole pixels.
    const scales = await page.evaluate(() => [...document.querySelectorAll(".pane img")].map((i) => i.getBoundingClientRect().width / i.naturalWidth));
    for (const s of scales) assert.ok(Number.isInteger(s) && s >= 4, `scales ${scales}`);
    const shown = (n) => page.getAttribute(`.pane:nth-child(${n}) img`, "src");
    const before = await shown(1);
    await page.getByRole("button", { name: "Next" }).click();
    await page.waitForFunction((old) => document.querySelector(".pane img").getAttribute("src") !== old, before);
    await page.locator("h1").click();
    await page.keyboard.press("ArrowLeft");
    await page.waitForFunction((old) => document.querySelector(".pane img").getAttribute("src") === old, before);
    // A method's settings are the address.
    await page.selectOption(".field:has-text('Block size') select", "8x8");
    await page.waitForFunction(() => /block=8x8/.test(location.hash));
    assert.ok(await page.locator(".field:has-text('Encryption unit') select").isDisabled(), "RMT encrypts nothing");
    await page.selectOption(".attack-pick select", "procrustes");
    await page.getByRole("button", { name: "Attack!" }).click();
    await page.waitForSelector(".pane:nth-child(3) img", { timeout: 60000 });
    await page.waitForSelector("text=/rank-1 100/");
    // The same picture again, but for what a slider of fewer pairs leaves out.
    const all = await shown(3);
    await page.locator(".pairs input[type=range]").focus();
    await page.keyboard.press("Home");
    await page.waitForSelector(".pane:nth-child(3) figcaption:has-text('m = 1:')");
    // Where the pointer is in one picture, all three are enlarged.
    await page.locator(".pane:nth-child(2) .pane-frame").hover({ position: { x: 60, y: 70 } });
    const zoomed = await page.evaluate(() => [...document.querySelectorAll(".pane img")].map((i) => i.style.transform + i.style.transformOrigin));
    assert.equal(new Set(zoomed).size, 1);
    assert.match(zoomed[0], /scale\(3\)/);
    assert.ok(all);
    // Noise, and the other methods.
    await page.fill("input[aria-label^='Noise level']", "100");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".pane:nth-child(3) figcaption:has-text('m = 1:')");
    await page.getByRole("tab", { name: "Controls" }).click();
    await page.selectOption(".field:has-text('Method') select", "aesctr");
    await page.waitForFunction(() => document.querySelector(".attack-pick select").value === "regression");
    await page.waitForSelector("text=/L2: also knows/", { timeout: 60000 });
    await page.waitForSelector("text=finds none", { timeout: 60000 });
    await page.getByRole("tab", { name: "DisguisedNets" }).click();
    await page.waitForSelector(".pane:nth-child(2) img");
    // The whole set, what leaves, the upload.
    await page.getByRole("button", { name: "Disguise!" }).click();
    await page.waitForSelector(".set-card button:has-text('Upload')", { timeout: 90000 });
    assert.match(await page.innerText(".set-card"), /6,000/);
    await page.locator(".set-card summary").click();
    await page.waitForSelector("text=train.h5/x_sha256");
    await inspect(page, "disguise-set");
    await page.getByRole("button", { name: "Upload" }).click();
    await page.getByRole("link", { name: "Train on it in the cloud" }).click();
    await page.waitForSelector("text=/What the cloud has/");
    await page.context().close();
    for (const size of ["wide", "narrow"]) {
      for (const colorScheme of ["light", "dark"]) {
        const other = await visit(server, { size, colorScheme });
        await go(other, server, "disguise?method=aes", ".pane:nth-child(2) img");
        await other.getByRole("button", { name: "Attack!" }).click();
        await other.waitForSelector(".pane:nth-child(3) img", { timeout: 60000 });
        await inspect(other, `disguise-${size}-${colorScheme}`);
        await other.context().close();
      }
    }
    await server.stop();
  },

  async "a network is trained on a disguised set, beside plain pictures"() {
    const runs = join(home, "cloud");
    mkdirSync(runs);
    const server = await serve(runs);
    const page = await visit(server);
    await go(page, server, "disguise", ".pane img");
    await page.getByRole("button", { name: "Disguise!" }).click();
    await page.getByRole("button", { name: "Upload" }).click({ timeout: 90000 });
    await page.getByRole("link", { name: "Train on it in the cloud" }).click();
    await page.waitForSelector(".seen-picture");
    await inspect(page, "cloud-set");
    await page.locator(".field", { hasText: "Epochs" }).locator("input").fill("2");
    await page.getByRole("button", { name: "Train", exact: true }).click();
    // Disguised first, then plain: two curves in one picture.
    await page.waitForFunction(() => [...document.querySelectorAll(".plot")].some((p) => /this one/.test(p.innerText) && /plain/.test(p.innerText)), null, { timeout: 180000 });
    await page.waitForFunction(() => /% there/.test(document.querySelector("main").innerText), null, { timeout: 180000 });
    await inspect(page, "cloud-beside");
    for (const [size, colorScheme] of [["narrow", "light"], ["wide", "dark"]]) {
      const other = await visit(server, { size, colorScheme });
      await other.goto(page.url());
      await other.waitForSelector(".plot canvas");
      await inspect(other, `cloud-${size}-${colorScheme}`);
      await other.context().close();
    }
    await server.stop();
  },

  async "own pictures are disguised, and nobody else's"() {
    const runs = join(home, "own");
    mkdirSync(runs);
    const server = await serve(runs);
    const page = await visit(server);
    await go(page, server, "disguise?data=own", "input[type=file]");
    await page.setInputFiles("input[type=file]", { name: "mine.png", mimeType: "image/png", buffer: png(1, 96, 0.1) });
    await page.waitForSelector("text=/1 of 256/");
    await page.waitForSelector(".pane:nth-child(2) img");
    await page.getByRole("button", { name: "Attack!" }).click();
    await page.waitForSelector(".pane:nth-child(3) img", { timeout: 60000 });
    assert.ok(await page.getByRole("button", { name: "Disguise!" }).isDisabled());
    await inspect(page, "disguise-own");
    const other = await visit(server);
    await go(other, server, "disguise?data=own", "input[type=file]");
    await other.waitForSelector("text=/0 of 256/");
    await page.setInputFiles("input[type=file]", { name: "text.png", mimeType: "image/png", buffer: Buffer.from("no picture at all") });
    await page.waitForSelector("text=/no PNG, JPEG or WebP/");
    await page.getByRole("button", { name: "Remove them" }).click();
    await page.waitForSelector("text=/0 of 256/");
    await server.stop();
  },

  async "a training is started, watched, and cancelled"() {
    const runs = join(home, "trainings");
    mkdirSync(runs);
    const server = await serve(runs);
    const page = await visit(server);
    await go(page, server, "cloud", "form button.primary");
    const field = (label) => page.locator(".field", { hasText: label }).locator("input");
    await field("Epochs").fill("200");
    await field("Images").fill("1000");
    await field("Width").fill("4");
    await field("P, selected").count().then((n) => assert.equal(n, 0, "nothing is selected without an ensemble"));
    await page.getByRole("button", { name: "Train", exact: true }).click();
    await page.waitForSelector(".plot canvas", { timeout: 60000 });
    const points = () => page.evaluate(() => fetch("/api/v1/runs/" + new URLSearchParams(location.hash.split("?")[1]).get("run") + "/curve").then((r) => r.json()).then((c) => c.lines[0].x.length));
    const before = await points();
    await inspect(page, "training");
    await page.reload();
    await page.waitForSelector(".plot canvas");
    for (let i = 0; i < 100 && (await points()) <= before; ++i) await page.waitForTimeout(200);
    assert.ok((await points()) > before, "the curve moves");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.waitForSelector(".state.cancelled", { timeout: 30000 });
    // What cannot be is refused by the configuration's own rules, in words.
    await field("h, cells").fill("6");
    await page.getByRole("button", { name: "Train", exact: true }).click();
    await page.waitForSelector("form .problem");
    await server.stop();
  },

  async "exported pages show the matrix without a server"() {
    const site = join(home, "site");
    const run = (...flags) => spawnSync(program, ["studio", "export", ...flags], { encoding: "utf8" });
    const made = run("--runs", join(home, "runs"), "--out", site);
    assert.equal(made.status, 0, made.stderr);
    assert.notEqual(run("--runs", join(home, "runs"), "--out", site).status, 0, "nothing is written over");
    const types = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml", json: "application/json", png: "image/png" };
    const files = createServer((request, reply) => {
      const path = join(site, decodeURIComponent(request.url.split("?")[0].replace(/^\/below\//, "/")).replace(/\/$/, "/index.html"));
      if (!path.startsWith(site) || !existsSync(path)) return reply.writeHead(404).end();
      reply.writeHead(200, { "Content-Type": types[path.split(".").pop()] }).end(readFileSync(path));
    });
    await new Promise((resolve) => files.listen(0, "127.0.0.1", resolve));
    const origin = `http://127.0.0.1:${files.address().port}`;
    const page = await visit({ origin }, { address: origin + "/below/" }); // a folder of a site
    await page.goto(origin + "/below/#/matrix");
    await page.waitForSelector(".heat table");
    assert.match(await page.innerText(".heat table"), /0\.720|0,720/);
    await page.locator(".cell").first().click();
    await page.waitForSelector(".panel .pair img");
    assert.ok(await page.evaluate(() => document.querySelector(".panel .pair img").naturalWidth > 0));
    await inspect(page, "exported-matrix");
    await page.goto(origin + "/below/#/cloud");
    await page.locator(".trainings a", { hasText: "finished" }).first().click();
    await page.waitForSelector(".plot canvas");
    assert.equal(await page.getByRole("button", { name: "Train", exact: true }).count(), 0);
    await inspect(page, "exported-trainings");
    files.close();
  },

  async "the tour, by keyboard, is offered once"() {
    const server = await serve(join(home, "runs"), ["--read-only"]);
    const page = await visit(server);
    await page.getByRole("button", { name: "Take the tour" }).focus();
    await page.keyboard.press("Enter");
    const seen = [];
    for (let i = 0; i < 6; ++i) {
      await page.waitForSelector(`.tour:has-text("Step ${i + 1} of 6")`);
      await page.waitForSelector(".toured");
      if (i === 1 || i === 5) await inspect(page, `tour-${i + 1}`);
      seen.push(await page.evaluate(() => location.hash.split("?")[0]));
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
    }
    assert.deepEqual(seen.map((s) => s.replace("#/", "")), ["", "disguise", "disguise", "cloud", "split", "matrix"]);
    await page.waitForSelector(".tour", { state: "detached" });
    await page.goto(server.origin + "/#/");
    await page.reload();
    await page.waitForSelector(".start");
    assert.equal(await page.getByRole("button", { name: "Take the tour" }).count(), 0, "it is remembered");
    await page.keyboard.press("?");
    await page.getByRole("button", { name: "Take the tour" }).click();
    await page.waitForSelector(".tour");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".tour", { state: "detached" });
    await server.stop();
  },

  async "runs that appear are shown, and two browsers see one job"() {
    const runs = join(home, "jobs");
    mkdirSync(runs);
    const server = await serve(runs);
    const first = await visit(server), second = await visit(server);
    assert.match(await first.innerText("main"), /no runs yet/);
    await first.getByRole("button", { name: "Prepare demonstration runs" }).click();
    for (const page of [first, second]) await page.waitForSelector(".jobs-button.busy", { timeout: 30000 });
    await second.reload();
    await second.waitForSelector(".jobs-button.busy");
    await second.locator(".jobs-button").click();
    const job = (state) => second.locator(`.job:has(.state.${state})`);
    await job("queued").getByRole("button", { name: "Cancel" }).click(); // the second half
    await job("cancelled").waitFor();
    await job("running").getByRole("button", { name: "Pause" }).click();
    for (const page of [first, second]) await page.waitForSelector(".jobs-button:not(.busy)", { timeout: 30000 });
    await job("paused").getByRole("button", { name: "Resume" }).click();
    await first.waitForSelector(".jobs-button.busy", { timeout: 30000 });
    await job("running").getByRole("button", { name: "Cancel" }).click();
    await second.waitForFunction(() => document.querySelectorAll(".state.cancelled").length === 2, null, { timeout: 30000 });
    writeRun(join(runs, "new"), { protection: "none", accuracy: 0.7, attacks: [["oracle", "decoder", "black box", 0.9]] });
    await first.waitForSelector("text=What is here", { timeout: 15000 });
    assert.deepEqual(first.trouble, []);
    await server.stop();
  },

  async "a server that is killed and comes back"() {
    const runs = join(home, "runs");
    const server = await serve(runs);
    const port = new URL(server.address).port;
    const page = await visit(server, { quiet: true });
    await go(page, server, "matrix", ".heat table");
    await server.stop("SIGKILL");
    await page.waitForSelector("text=/does not answer/", { timeout: 15000 });
    const again = await serve(runs, [], port);
    await page.waitForSelector("text=/does not answer/", { state: "detached", timeout: 30000 });
    await page.locator(".cell").first().click();
    await page.waitForSelector(".panel .pair img");
    await again.stop();
  },

  async "what it costs"() {
    const runs = join(home, "many");
    writeLargeSweep(runs, 25, 20);
    const server = await serve(runs, ["--read-only"]);
    const page = await visit(server);
    const numbers = {};
    await page.goto("about:blank");
    await page.goto(server.origin + "/");
    await page.waitForSelector(".start h1");
    numbers["first content, ms"] = Math.round(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime));
    await go(page, server, "matrix", ".heat table"); // the table is in the server's memory now
    await go(page, server, "", ".start h1");
    numbers["matrix of 500 cells, ms"] = Math.round(await page.evaluate(() => new Promise((resolve) => {
      const begin = performance.now();
      const wait = () => (document.querySelectorAll(".cell").length >= 500 ? requestAnimationFrame(() => resolve(performance.now() - begin)) : setTimeout(wait, 1));
      location.hash = "#/matrix";
      wait();
    })));
    numbers["room change, ms"] = Math.round(await page.evaluate(() => new Promise((resolve) => {
      const begin = performance.now();
      const wait = () => (document.querySelector(".start h1") ? requestAnimationFrame(() => resolve(performance.now() - begin)) : setTimeout(wait, 1));
      location.hash = "#/";
      wait();
    })));
    console.log(JSON.stringify(numbers));
    await go(page, server, "matrix", ".heat table");
    await inspect(page, "large");
    // Ten times what an idle machine takes: tests share theirs.
    assert.ok(numbers["first content, ms"] < 3000 && numbers["matrix of 500 cells, ms"] < 2000 && numbers["room change, ms"] < 1000, JSON.stringify(numbers));
    await server.stop();
  },
};

let failed = 0;
writeRuns(join(home, "runs"));
for (const [name, script] of Object.entries(scripts)) {
  if (process.env.ENS_STUDIO_ONLY && !name.includes(process.env.ENS_STUDIO_ONLY)) continue;
  const begin = Date.now();
  try {
    await script();
    console.log(`ok    ${name} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
  } catch (error) {
    ++failed;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
  for (const context of browser.contexts()) await context.close();
  for (const server of [...servers]) await server.stop("SIGKILL");
}
await browser.close();
rmSync(home, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
