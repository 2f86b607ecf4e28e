// SPDX-License-Identifier: Apache-2.0
import { scalesFor, settingsOf, verdictAt } from "../../src/rooms/disguise/model";
import assert from "node:assert/strict";
import { test } from "node:test";
import { format, parse } from "../../src/address";
import { contrast, fill } from "../../src/colour";
import { bytes, csvField, duration, fixed, percent, points, scaled } from "../../src/format";
import { key, keep, markFront, type Point, records, scatter, tables, values, worst } from "../../src/rooms/matrix/model";
import type { Cell, Matrix } from "../../src/types";

const rgb = (text: string) => text.match(/\d+/g)!.map(Number) as [number, number, number];
const plain = (text: string) => text.replace(/\s/g, " ");

test("an address reads back as itself", () => {
  const address = { room: "matrix", params: { group: "12ab", value: "psnr", split: "h = 1, t = 1", odd: "a&b=c#d?" } };
  assert.deepEqual(parse(format(address)), address);
  assert.deepEqual(parse(""), { room: "", params: {} });
  assert.deepEqual(parse("#/<script>"), { room: "", params: {} });
  assert.equal(format({ room: "", params: { a: "" } }), "#/");
});

test("numbers are read by people", () => {
  assert.equal(fixed(undefined, 2), "–");
  assert.equal(fixed(NaN, 2), "–");
  assert.equal(plain(percent(0.5)), "50.0 %");
  assert.equal(points(0.015), "+1.5 pt");
  assert.equal(points(-0.015), "-1.5 pt");
  assert.equal(plain(scaled(999)), "999");
  assert.equal(plain(scaled(1.5e6, "FLOP")), "1.50 MFLOP");
  assert.equal(plain(bytes(16384)), "16.4 kB");
  assert.equal(plain(bytes(0)), "0 B");
  assert.equal(duration(59.6), "1 min 0 s");
  assert.equal(duration(7260), "2 h 1 min");
});

test("a spreadsheet sees no formulas", () => {
  assert.equal(csvField('=cmd|"x"!A1'), '"\'=cmd|""x""!A1"');
  assert.equal(csvField("a,b"), '"a,b"');
  assert.equal(csvField(-1.5), "-1.5");
  assert.equal(csvField(undefined), "");
});

test("the heat map's colours are even and readable", () => {
  for (const dark of [false, true]) {
    let last = -1;
    for (let i = 0; i <= 20; ++i) {
      const { background, text } = fill(i / 20, dark);
      const ink = text === "#ffffff" ? [255, 255, 255] : [11, 13, 16];
      assert.ok(contrast(rgb(background), ink as [number, number, number]) >= 4.5, `${background} ${text}`);
      const grey = 0.2126 * rgb(background)[0] + 0.7152 * rgb(background)[1] + 0.0722 * rgb(background)[2];
      const lightness = dark ? grey : 255 - grey;
      assert.ok(lightness > last, "lightness grows with the value, so that the order survives without colour");
      last = lightness;
    }
  }
  assert.deepEqual(fill(NaN, false), fill(0, false));
  assert.deepEqual(fill(7, false), fill(1, false));
});

const cell = (attack: string, ssim: number | undefined, more: Partial<Cell> = {}): Cell => ({
  attack, title: attack, level: "query-free", metric: "default", folder: attack, seeds: 1, run: "r", trusted: true,
  ssim: ssim === undefined ? undefined : { mean: ssim }, ...more,
});
const matrix: Matrix = {
  group: { id: "g", title: "G" }, published: [], skipped: [],
  comparisons: [
    { title: "A", data: "a", rows: [
      { title: "none", runs: ["1"], head: 1, tail: 1, accuracy: { mean: 0.9 }, bytes_up: 100, edge_flops: 10, cells: [cell("x", 0.8), cell("y", 0.9), cell("z", 1, { level: "blind" })] },
      { title: "ours", runs: ["2"], head: 1, tail: 1, accuracy: { mean: 0.8 }, bytes_up: 200, edge_flops: 10, cells: [cell("x", 0.2, { trusted: false }), cell("y", undefined, { error: "e" })] },
      { title: "missing", runs: [], status: "failed", cells: [] },
    ] },
    { title: "B", data: "b", rows: [{ title: "none", runs: ["3"], head: 2, tail: 1, accuracy: { mean: 0.5 }, cells: [cell("x", 0.5)] }] },
  ],
};
const all = { data: "", split: "", level: "", trusted: false };

test("one table for each setting, with the cells that have no run", () => {
  const shown = tables(matrix, all, "protection", "attack", "");
  assert.deepEqual(shown.map((t) => t.title), ["A", "B"]);
  assert.deepEqual(shown[0].rows, ["none", "ours", "missing"]);
  assert.deepEqual(shown[0].columns, ["x", "y", "z"]);
  assert.equal(shown[0].rowOf.get("missing")!.status, "failed");
});

test("axes over splits show all settings in one table, the worst of each cell", () => {
  const [table] = tables(matrix, all, "protection", "split", "");
  assert.deepEqual(table.columns, ["h = 1, t = 1", "h = 2, t = 1"]);
  const found = worst(table.at.get(key("none", "h = 1, t = 1")), values[0]);
  assert.equal(found!.attack, "z");
  assert.equal(tables(matrix, all, "protection", "split", "x")[0].at.get(key("none", "h = 1, t = 1"))!.length, 1);
});

test("filters", () => {
  const list = records(matrix);
  assert.equal(list.filter((r) => keep(r, { ...all, data: "b" })).length, 1);
  assert.equal(list.filter((r) => keep(r, { ...all, trusted: true })).every((r) => r.cell.trusted), true);
  assert.equal(list.filter((r) => keep(r, { ...all, level: "blind" })).length, 1);
});

test("the trade-off counts the strongest attack and no floor, and keeps settings apart", () => {
  const points = scatter(records(matrix), values[0], "", false, { ssim: 0.85, flops: 10, bytes: 1000 });
  assert.deepEqual(points.map((p) => [p.title, p.setting, p.y, p.front, p.inBudget]), [
    ["none", "A", 0.9, true, false], ["ours", "A", 0.2, true, true], ["none", "B", 0.5, true, true]]);
});

test("the Pareto front agrees with its definition, tried on many clouds of points", () => {
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let i = 0; i < 50; ++i) {
    const points = Array.from({ length: 20 }, () => ({ x: Math.round(5 * random()), y: Math.round(5 * random()), setting: "" }) as Point);
    markFront(points);
    // Sorted by falling x: on the front is who leaks less than everybody more accurate, and no more than equals.
    for (const p of points) {
      const better = points.filter((q) => q.x > p.x).map((q) => q.y), equal = points.filter((q) => q.x === p.x).map((q) => q.y);
      assert.equal(p.front, p.y < Math.min(Infinity, ...better) && p.y === Math.min(...equal));
    }
  }
});

test("pictures are shown in whole pixels, and about as large as each other", () => {
  assert.deepEqual(scalesFor(290, 420, [[32, 32], [32, 32]]), [9, 9]);
  assert.deepEqual(scalesFor(290, 420, [[57, 57], [114, 114], [57, 57]]), [4, 2, 4]);
  assert.deepEqual(scalesFor(290, 420, [[65, 65], [71, 71]]), [4, 4]); // padded to whole blocks
  const [a, b] = scalesFor(290, 420, [[131, 131], [524, 262]]);
  assert.equal(a, 2);
  assert.ok(b < 1 && b > 0.5);
});

test("what differs from the usual settings is asked for", () => {
  const control = (path: string, preset: string) => ({ path, preset, kind: "choice", choices: [] });
  const method = { name: "rmt", title: "RMT", tab: "t", meaning: "", controls: [control("disguise.rmt.block", "4x4"), control("disguise.rmt.noise", "0")] };
  const values: Record<string, string> = { block: "8x8", noise: "0", store: "" };
  assert.deepEqual(settingsOf(method, [control("disguise.store", "float16")], (n) => values[n] ?? ""), [{ path: "disguise.rmt.block", value: "8x8" }]);
});

test("a verdict is the strongest attack's, and good only when all have been run", () => {
  const attack = (name: string, level: string, rank1: number, verdict: string) => ({
    attack: name, title: name, level, scored_images: 64, gallery: 100, public_images: 0, disguised_rows: 0, seconds: 0, best: 0,
    points: [{ rebuilt: "", shown_ssim: 0, shown_psnr: 0, rank1: { mean: rank1 }, verdict }],
  });
  const wanted = [{ attack: "look", level: "L0" }, { attack: "equality", level: "L0" }, { attack: "codebook", level: "L2" }];
  const look = attack("look", "L0", 0.01, "good"), equality = attack("equality", "L0", 0.9, "bad");
  assert.equal(verdictAt("L0", [look], wanted).word, "");
  assert.equal(verdictAt("L0", [look, attack("equality", "L0", 0.02, "weak attacker")], wanted).word, "weak attacker");
  assert.equal(verdictAt("L0", [look, equality], wanted).word, "bad");
  assert.equal(verdictAt("L2", [look, equality], wanted).word, "", "none of that level was run");
  assert.equal(verdictAt("L2", [look, equality, attack("codebook", "L2", 0.1, "moderate")], wanted).by!.attack, "equality");
});
