// SPDX-License-Identifier: Apache-2.0
// Run folders as trainings and attacks leave them (experiment/run_dir.h, proto/results.proto), for the browser's tests.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as zlib from "node:zlib"; // node 18 has no crc32

function crc(bytes) {
  if (zlib.crc32) return zlib.crc32(bytes);
  let c = ~0;
  for (const b of bytes) {
    c ^= b;
    for (let k = 0; k < 8; ++k) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  }
  return ~c >>> 0;
}

// A strip of images: bright figures on a ground, blurred by `noise`.
export function png(images, side, noise) {
  const width = images * side;
  const rows = Buffer.alloc((3 * width + 1) * side);
  for (let y = 0; y < side; ++y) {
    for (let x = 0; x < width; ++x) {
      const n = Math.floor(x / side), u = (x % side) / side - 0.5, v = y / side - 0.5;
      const inside = n % 3 === 0 ? u * u + v * v < 0.1 : n % 3 === 1 ? Math.abs(u) + Math.abs(v) < 0.35 : Math.abs(u) < 0.28 && Math.abs(v) < 0.28;
      const jitter = noise * 255 * (Math.sin(127.1 * x + 311.7 * y) * 43758.5453 % 1);
      for (let c = 0; c < 3; ++c) {
        const value = (inside ? 230 - 60 * ((n + c) % 3) : 40 + 30 * ((n * 2 + c) % 4)) + jitter;
        rows[y * (3 * width + 1) + 1 + 3 * x + c] = Math.max(0, Math.min(255, value));
      }
    }
  }
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(12 + data.length);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc(body), 8 + data.length);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(side, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), chunk("IHDR", head), chunk("IDAT", zlib.deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

function write(...parts) {
  const text = parts.pop();
  const file = join(...parts);
  mkdirSync(join(file, ".."), { recursive: true });
  writeFileSync(file, typeof text === "string" || Buffer.isBuffer(text) ? text : JSON.stringify(text));
}

export function writeRun(folder, { protection, accuracy, data = "cifar10", head = 1, attacks }) {
  write(folder, "config.txtpb", `data {\n  name: "${data}"\n}\nmodel {\n  head_cells: ${head}\n}\nprotection {\n  kind: "${protection}"\n}\n`);
  write(folder, "info.json", { version: "0.1.0", command: `ensembler train --out ${folder}`, device: "CPU, 2 threads", started: "2026-01-02T03:04:05Z" });
  write(folder, "summary.json", {
    protection, nets: protection === "ensembler" ? 4 : 1, selected: protection === "ensembler" ? 2 : 1, data, architecture: "resnet18", width: 16,
    accuracy, split: { head, tail: 1 }, bytes: { up: 16384 / head, down: 2048 }, flops: { edge: 9e5 * head, cloud: 3e7 },
  });
  write(folder, "metrics.csv", "time,stage,net,epoch,step,name,value\n" + Array.from({ length: 12 }, (_, i) =>
    `2026-01-02T03:04:${String(i + 5).padStart(2, "0")}Z,stage1,0,${i},${i * 10},loss,${(2.3 * Math.exp(-i / 5)).toFixed(4)}\n`).join(""));
  for (const [attack, title, level, ssim] of attacks) {
    const file = { attack, title, level, scored_images: 64, seconds: 12, device: "CPU, 2 threads" };
    if (ssim === "failed") write(folder, "attack", attack, "result.json", { ...file, error: "the shadow did not learn" });
    else {
      write(folder, "attack", attack, "result.json", { ...file, ssim: { mean: ssim, low: ssim - 0.01, high: ssim + 0.01 }, psnr: { mean: 8 + 16 * ssim } });
      write(folder, "attack", attack, "original.png", png(16, 32, 0));
      write(folder, "attack", attack, "reconstruction.png", png(16, 32, 1 - ssim));
    }
  }
  write(folder, "DONE", "");
}

const list = (oracle, linear, alignment, shadow) => [
  ["oracle", "decoder on true features", "black box", oracle], ["linear-decoder", "linear decoder", "black box", linear],
  ["alignment", "feature alignment", "query-free", alignment], ["shadow-n1", "shadow + decoder, N=1", "query-free", shadow],
  ["mean-image", "mean public image (floor)", "blind", 0.13]];

// A sweep with a failed cell, another one, and a folder with a damaged run.
export function writeRuns(root) {
  const sweep = join(root, "table1");
  writeRun(join(sweep, "none"), { protection: "none", accuracy: 0.705, attacks: list(0.93, 0.84, 0.83, 0.78) });
  writeRun(join(sweep, "single"), { protection: "single", accuracy: 0.69, attacks: list(0.9, 0.8, 0.7, 0.5) });
  writeRun(join(sweep, "shredder"), { protection: "shredder", accuracy: 0.62, attacks: list(0.7, 0.6, 0.45, "failed") });
  writeRun(join(sweep, "ensembler"), { protection: "ensembler", accuracy: 0.694, attacks: list(0.92, 0.81, 0.72, 0.11) });
  writeRun(join(sweep, "deeper"), { protection: "none", accuracy: 0.7, head: 4, attacks: list(0.36, 0.3, 0.25, 0.2) });
  write(sweep, "sweep.json", {
    title: "Table 1: CIFAR-10, small", command: "ensembler sweep table1-cifar10-small --out runs/table1", format: 1,
    cells: [...["none", "single", "shredder", "ensembler", "deeper"].map((row) => ({ folder: row, row, status: "done", attacks: [] })),
      { folder: "dr_single", row: "dr_single", status: "failed", reason: "the disk was full", attacks: [] }],
  });
  writeRun(join(root, "faces", "none"), { protection: "none", accuracy: 0.81, data: "faces", attacks: list(0.95, 0.9, 0.85, 0.8) });
  writeRun(join(root, "faces", "torn"), { protection: "none", accuracy: 0.81, data: "faces", attacks: [] });
  write(root, "faces", "torn", "summary.json", '{"protection":');
}

// A sweep of many cells.
export function writeLargeSweep(root, rows, columns) {
  const cells = [];
  for (let i = 0; i < rows; ++i) {
    const name = `sigma=${(i / 100).toFixed(2)}`;
    const attacks = Array.from({ length: columns }, (_, j) => [`attack-${j}`, `attack ${j}`, "query-free", ((i * 7 + j * 13) % 97) / 100]);
    writeRun(join(root, "large", name), { protection: "single", accuracy: 0.5 + i / 200, attacks: [] });
    for (const [attack, title, level, ssim] of attacks)
      write(root, "large", name, "attack", attack, "result.json", { attack, title, level, ssim: { mean: ssim }, psnr: { mean: 10 } });
    write(root, "large", name, "config.txtpb", `ensemble {\n  sigma: ${i / 100}\n}\nprotection {\n  kind: "single"\n}\n`);
    cells.push({ folder: name, row: "single", status: "done", values: { "ensemble.sigma": String(i / 100) }, attacks: [] });
  }
  write(root, "large", "sweep.json", { title: "Large", command: "ensembler sweep large", cells, format: 1 });
}
