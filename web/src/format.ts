// SPDX-License-Identifier: Apache-2.0
// Numbers, times and sizes as people read them, in the reader's locale and zone.
import type { Interval } from "./types";

const dash = "–";
const cache = new Map<string, Intl.NumberFormat>();
function decimals(digits: number): Intl.NumberFormat {
  const key = `d${digits}`;
  let f = cache.get(key);
  if (!f) {
    f = new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    cache.set(key, f);
  }
  return f;
}

export function fixed(value: number | undefined, digits: number): string {
  return value === undefined || !Number.isFinite(value) ? dash : decimals(digits).format(value);
}

export function percent(share: number | undefined, digits = 1): string {
  return share === undefined ? dash : fixed(100 * share, digits) + " %";
}

export function points(share: number | undefined): string {
  if (share === undefined) return dash;
  return (share > 0 ? "+" : "") + fixed(100 * share, 1) + " pt";
}

// A number with a prefix: 9.5 k, 1.2 M.
export function scaled(value: number | undefined, unit = ""): string {
  if (value === undefined || !Number.isFinite(value)) return dash;
  const prefixes = ["", "k", "M", "G", "T"];
  let i = 0;
  let v = Math.abs(value);
  while (v >= 1000 && i < prefixes.length - 1) {
    v /= 1000;
    ++i;
  }
  const digits = v >= 100 || (i === 0 && Number.isInteger(v)) ? 0 : v >= 10 ? 1 : 2;
  const suffix = `${prefixes[i]}${unit}`;
  return (value < 0 ? "-" : "") + fixed(v, digits) + (suffix ? "\u202f" + suffix : "");
}

export function bytes(value: number | undefined): string {
  return value === undefined ? dash : scaled(value, "B");
}

export function milliseconds(value: number | undefined): string {
  if (value === undefined) return dash;
  return value >= 1000 ? fixed(value / 1000, 1) + " s" : fixed(value, value < 10 ? 2 : 0) + " ms";
}

export function duration(seconds: number | undefined): string {
  if (seconds === undefined || !Number.isFinite(seconds)) return dash;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export function when(seconds: number | undefined): string {
  if (!seconds) return dash;
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(1000 * seconds));
}

export function interval(value: Interval | undefined, digits: number): string {
  if (!value || value.mean === undefined) return dash;
  if (value.low === undefined || value.high === undefined) return fixed(value.mean, digits);
  return `${fixed(value.mean, digits)} (${fixed(value.low, digits)} to ${fixed(value.high, digits)})`;
}

export function csvField(value: string | number | undefined): string {
  if (value === undefined) return "";
  let text = String(value);
  // A spreadsheet takes these beginnings for formulas.
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}
