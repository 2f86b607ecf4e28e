// SPDX-License-Identifier: Apache-2.0
// The room without a page. Pure functions, tested by node.
import type { Control, DisguiseAttack, DisguiseChoices, Method } from "../../types";

export const short = (path: string) => path.slice(path.lastIndexOf(".") + 1);

// What the source's figure shows; everything else is under "more".
const main = new Set(["block", "noise", "unit", "permute", "sigma", "cell", "epsilon", "patch", "width", "depth", "mix", "k", "encodings"]);
export const isMain = (c: Control) => main.has(short(c.path));

// Every setting that could be made, with the methods that read it.
export function settingsOf(method: Method, common: Control[], value: (name: string) => string): { path: string; value: string }[] {
  return [...method.controls, ...common].flatMap((c) => {
    const v = value(short(c.path));
    return v === "" || v === c.preset ? [] : [{ path: c.path, value: v }];
  });
}

export function tabsOf(choices: DisguiseChoices): string[] {
  const order = ["DisguisedNets", "InstaHide", "NeuraCrypt", "Controls"];
  return order.filter((t) => choices.methods.some((m) => m.tab === t));
}

// Pixels of the page for one of each picture: whole numbers, of which the largest picture decides, so that all are about as large
// as each other; below 1 only for pictures that are larger than their place.
export function scalesFor(place: number, most: number, sizes: [number, number][]): number[] {
  if (sizes.length === 0) return [];
  const fits = sizes.map(([w, h]) => Math.min(place / w, most / h));
  const least = fits.indexOf(Math.min(...fits));
  const base = fits[least] >= 1 ? Math.floor(fits[least]) : fits[least];
  return sizes.map(([w], i) => {
    const scale = Math.min(fits[i], (base * sizes[least][0]) / w + 0.2);
    return scale >= 1 ? Math.floor(scale) : scale;
  });
}

const rank: Record<string, number> = { L0: 0, L1: 1, L1x: 2, L2: 3, oracle: 4 };

// What the attacks that were run so far say at a level: the worst of their words. "good" needs all of them.
export function verdictAt(level: string, done: DisguiseAttack[], wanted: { attack: string; level: string }[]): { word: string; by?: DisguiseAttack; missing: number } {
  const below = done.filter((d) => rank[d.level] <= rank[level] && best(d).rank1?.mean !== undefined);
  const missing = wanted.filter((w) => rank[w.level] <= rank[level] && !done.some((d) => d.attack === w.attack)).length;
  if (!below.some((d) => d.level === level)) return { word: "", missing };
  const by = below.reduce((a, b) => (best(b).rank1!.mean! > best(a).rank1!.mean! ? b : a));
  const word = best(by).verdict ?? "";
  return { word: word === "good" && missing > 0 ? "" : word, by, missing };
}

export const best = (a: DisguiseAttack) => a.points[a.best ?? 0] ?? a.points[a.points.length - 1];
