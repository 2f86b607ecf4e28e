// SPDX-License-Identifier: Apache-2.0
// The matrix without a page: records, tables, the Pareto front. Pure functions, tested by node.
import type { Cell, Comparison, Interval, Matrix, Row } from "../../types";

export interface Record_ {
  setting: string; data: string; split: string; protection: string; attack: string; level: string; metric: string;
  row: Row; cell: Cell;
}

export const axes = ["protection", "attack", "split", "data"] as const;
export type Axis = (typeof axes)[number];

export interface Value { name: string; title: string; digits: number; low: number; high: number; of: (cell: Cell) => number | undefined; range?: (cell: Cell) => Interval | undefined }
export const values: Value[] = [
  { name: "ssim", title: "SSIM", digits: 3, low: 0, high: 1, of: (c) => c.ssim?.mean, range: (c) => c.ssim },
  { name: "best_ssim", title: "SSIM, negative counted", digits: 3, low: 0, high: 1, of: (c) => c.best_ssim?.mean, range: (c) => c.best_ssim },
  { name: "psnr", title: "PSNR (dB)", digits: 2, low: 5, high: 30, of: (c) => c.psnr?.mean, range: (c) => c.psnr },
  { name: "own_pick", title: "SSIM of the attacker's pick", digits: 3, low: 0, high: 1, of: (c) => c.own_pick },
  { name: "of_oracle", title: "Share of the true-feature decoder", digits: 2, low: 0, high: 1, of: (c) => c.of_oracle },
  { name: "recognised", title: "Recognised", digits: 3, low: 0, high: 1, of: (c) => c.recognised },
  { name: "reidentified", title: "Rank-1", digits: 3, low: 0, high: 1, of: (c) => c.reidentified },
];

export function splitName(row: Row): string {
  return row.head === undefined ? "" : `h = ${row.head}, t = ${row.tail ?? 0}`;
}

export function records(matrix: Matrix): Record_[] {
  const out: Record_[] = [];
  for (const comparison of matrix.comparisons) {
    for (const row of comparison.rows) {
      for (const cell of row.cells) {
        out.push({
          setting: comparison.title, data: comparison.data ?? "", split: splitName(row), protection: row.title,
          attack: cell.title, level: cell.level ?? "", metric: cell.metric, row, cell,
        });
      }
    }
  }
  return out;
}

export interface Filter { data: string; split: string; level: string; trusted: boolean }

export function keep(r: Record_, f: Filter): boolean {
  return (!f.data || r.data === f.data) && (!f.split || r.split === f.split) && (!f.level || r.level === f.level) &&
    (!f.trusted || !!r.cell.trusted);
}

export interface Table {
  title: string; rows: string[]; columns: string[];
  levels: Map<string, string>; // of attacks, where they are columns
  rowOf: Map<string, Row>; // where protections are rows
  at: Map<string, Record_[]>; // by key(row, column)
}
export const key = (row: string, column: string) => row + "\u0000" + column;

// One table for each setting, as `report` has them, unless an axis runs over what tells settings apart.
export function tables(matrix: Matrix, filter: Filter, rows: Axis, columns: Axis, attack: string): Table[] {
  const together = rows === "split" || columns === "split" || rows === "data" || columns === "data";
  const out: Table[] = [];
  const make = (title: string, list: Record_[], comparisons: Comparison[]): void => {
    const table: Table = { title, rows: [], columns: [], levels: new Map(), rowOf: new Map(), at: new Map() };
    if (rows === "protection") {
      for (const c of comparisons) for (const row of c.rows) {
        if (filter.data && c.data !== filter.data) continue;
        if (filter.split && row.head !== undefined && splitName(row) !== filter.split) continue;
        if (!table.rowOf.has(row.title)) {
          table.rows.push(row.title);
          table.rowOf.set(row.title, row);
        }
      }
    }
    for (const r of list) {
      if (rows !== "attack" && columns !== "attack" && attack && r.attack !== attack) continue;
      const x = r[columns], y = r[rows];
      if (!table.columns.includes(x)) table.columns.push(x);
      if (!table.rows.includes(y)) table.rows.push(y);
      if (columns === "attack") table.levels.set(x, r.level);
      const k = key(y, x);
      table.at.set(k, [...(table.at.get(k) ?? []), r]);
    }
    if (table.rows.length > 0) out.push(table);
  };
  if (together) {
    make(matrix.group.title, records(matrix).filter((r) => keep(r, filter)), matrix.comparisons);
  } else {
    for (const c of matrix.comparisons) {
      make(c.title, records({ ...matrix, comparisons: [c] }).filter((r) => keep(r, filter)), [c]);
    }
  }
  return out;
}

// Of several records in one cell the worst for the client.
export function worst(list: Record_[] | undefined, value: Value): Record_ | undefined {
  let best: Record_ | undefined;
  for (const r of list ?? []) {
    const v = value.of(r.cell);
    if (v === undefined) best ??= r;
    else if (!best || (value.of(best.cell) ?? -Infinity) < v) best = r;
  }
  return best;
}

export interface Point { title: string; setting: string; x: number; y: number; attack: string; record: Record_; front: boolean; inBudget: boolean }

export interface Budget { ssim: number; flops: number; bytes: number }

// Accuracy (or its change) against the leak by the attack that counts: one point a row.
export function scatter(list: Record_[], value: Value, attack: string, change: boolean, budget: Budget): Point[] {
  const byRow = new Map<Row, Record_[]>();
  for (const r of list) byRow.set(r.row, [...(byRow.get(r.row) ?? []), r]);
  const points: Point[] = [];
  for (const [row, all] of byRow) {
    const x = (change ? row.change : row.accuracy)?.mean;
    const counted = all.filter((r) => r.level !== "blind" && value.of(r.cell) !== undefined && (!attack || r.attack === attack));
    const record = worst(counted, value);
    if (x === undefined || !record) continue;
    const y = value.of(record.cell)!;
    const sent = (row.bytes_up ?? 0) + (row.bytes_down ?? 0);
    points.push({
      title: row.title, setting: record.setting, x, y, attack: record.attack, record, front: false,
      inBudget: y <= budget.ssim && (row.edge_flops ?? 0) <= budget.flops && sent <= budget.bytes,
    });
  }
  return markFront(points);
}

// Nobody else of the same setting is at least as accurate and leaks at most as much.
export function markFront(points: Point[]): Point[] {
  for (const p of points) {
    p.front = !points.some((q) => q !== p && q.setting === p.setting && q.x >= p.x && q.y <= p.y && (q.x > p.x || q.y < p.y));
  }
  return points;
}
