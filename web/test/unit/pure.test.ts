// SPDX-License-Identifier: Apache-2.0
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
