// SPDX-License-Identifier: Apache-2.0
// The view as a file: what is shown, and nothing else.
import { fill } from "../../colour";
import { csvField, fixed } from "../../format";
import { share } from "./heatmap";
import { key, type Record_, type Table, type Value, worst } from "./model";

function flat(r: Record_) {
  return {
    setting: r.setting, data: r.data, split: r.split, protection: r.protection, attack: r.cell.attack, level: r.level,
    metric: r.metric, ssim: r.cell.ssim?.mean, ssim_low: r.cell.ssim?.low, ssim_high: r.cell.ssim?.high,
    psnr: r.cell.psnr?.mean, best_ssim: r.cell.best_ssim?.mean, own_pick: r.cell.own_pick, of_oracle: r.cell.of_oracle,
    recognised: r.cell.recognised, reidentified: r.cell.reidentified, strength: r.cell.strength, seeds: r.cell.seeds,
    accuracy: r.row.accuracy?.mean, accuracy_change: r.row.change?.mean, bytes_up: r.row.bytes_up,
    bytes_down: r.row.bytes_down, edge_flops: r.row.edge_flops, edge_ms: r.row.edge_ms, error: r.cell.error,
    not_applicable: r.cell.pointless,
  };
}

export function asJson(list: Record_[]): string {
  return JSON.stringify(list.map(flat), null, 1);
}

export function asCsv(list: Record_[]): string {
  const rows = list.map(flat);
  const names = Object.keys(rows[0] ?? flat({} as Record_)) as (keyof ReturnType<typeof flat>)[];
  return [names.join(","), ...rows.map((r) => names.map((n) => csvField(r[n])).join(","))].join("\n") + "\n";
}

export function asPng(table: Table, value: Value, dark: boolean): Promise<Blob | null> {
  const cell = [92, 34], head = 250, top = 96, scale = 2;
  const width = head + cell[0] * table.columns.length + 16, height = top + cell[1] * table.rows.length + 16;
  const canvas = document.createElement("canvas");
  canvas.width = width * scale;
  canvas.height = height * scale;
  const c = canvas.getContext("2d")!;
  c.scale(scale, scale);
  c.fillStyle = dark ? "#14161a" : "#ffffff";
  c.fillRect(0, 0, width, height);
  const ink = dark ? "#e8eaed" : "#1c1e21";
  const font = (size: number, weight = "") => { c.font = `${weight} ${size}px system-ui, sans-serif`; };
  const clip = (text: string, most: number) => {
    let t = text;
    while (t.length > 1 && c.measureText(t).width > most) t = t.slice(0, -2) + "…";
    return t;
  };
  c.fillStyle = ink;
  font(14, "600");
  c.fillText(clip(`${table.title}: ${value.title}`, width - 24), 12, 24);
  font(11);
  table.columns.forEach((name, j) => {
    c.save();
    c.translate(head + cell[0] * j + 12, top - 10);
    c.rotate(-Math.PI / 9);
    c.fillText(clip(name, 130), 0, 0);
    c.restore();
  });
  table.rows.forEach((r, i) => {
    c.fillStyle = ink;
    c.textAlign = "left";
    font(12);
    c.fillText(clip(r, head - 24), 12, top + cell[1] * i + 22);
    table.columns.forEach((name, j) => {
      const record = worst(table.at.get(key(r, name)), value);
      const v = record && value.of(record.cell);
      if (v === undefined) return;
      const { background, text } = fill(share(value, v), dark);
      c.fillStyle = background;
      c.fillRect(head + cell[0] * j, top + cell[1] * i, cell[0] - 2, cell[1] - 2);
      c.fillStyle = text;
      c.textAlign = "center";
      c.fillText(fixed(v, value.digits) + (record!.cell.trusted ? "" : " *"), head + cell[0] * (j + 0.5), top + cell[1] * i + 21);
    });
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
