// SPDX-License-Identifier: Apache-2.0
import { fixed, percent, points as inPoints } from "../../format";
import type { Matrix } from "../../types";
import type { Point, Record_, Value } from "./model";

const narrow = matchMedia("(max-width: 899px)");
const left = 56, right = 20, top = 16, bottom = 44;
const shapes = ["circle", "square", "diamond", "triangle"] as const;

function ticks(low: number, high: number): number[] {
  const raw = (high - low) / 6 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw)!;
  const out: number[] = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) out.push(Math.round(v / step) * step);
  return out;
}

function Mark({ shape, x, y, kind }: { shape: number; x: number; y: number; kind: string }) {
  const r = 6;
  const d = {
    circle: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
    square: `M${x - 5} ${y - 5}h10v10h-10z`,
    diamond: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`,
    triangle: `M${x} ${y - 7}l7 12h-14z`,
  }[shapes[shape % shapes.length]];
  return <path class={"mark " + kind} d={d} />;
}

export function Scatter({ list, value, change, published, onOpen }: {
  list: Point[]; value: Value; change: boolean; published: Matrix["published"]; onOpen: (r: Record_) => void;
}) {
  const W = narrow.matches ? 400 : 720, H = narrow.matches ? 340 : 400;
  const theirs = change && value.name === "ssim"
    ? published.flatMap((p) => p.rows.filter((r) => r.change !== undefined && r.ssim !== undefined && r.ours)
      .map((r) => ({ title: `${r.name}, published (${p.source})`, x: r.change! / 100, y: r.ssim! })))
    : [];
  const xs = [...list, ...theirs].map((p) => p.x), ys = [...list, ...theirs].map((p) => p.y);
  if (xs.length === 0) return <p class="muted">No run here has both an accuracy and this number.</p>;
  const pad = Math.max(0.01, 0.08 * (Math.max(...xs) - Math.min(...xs)));
  const x0 = Math.min(...xs) - pad, x1 = Math.max(...xs) + pad;
  const y0 = Math.min(value.low, ...ys), y1 = Math.max(...ys) * 1.08 || 1;
  const px = (x: number) => left + ((x - x0) / (x1 - x0)) * (W - left - right);
  const py = (y: number) => H - bottom - ((y - y0) / (y1 - y0)) * (H - top - bottom);
  const settings = [...new Set(list.map((p) => p.setting))];
  const show = (x: number) => (change ? inPoints(x) : percent(x, x1 - x0 < 0.05 ? 1 : 0));
  const fronts = settings.map((s) => list.filter((p) => p.setting === s && p.front).sort((a, b) => a.x - b.x)).filter((f) => f.length > 1);
  // A name above each point, those of the front first, where two would not meet.
  const placed: { x: number; y: number; width: number }[] = [];
  const labelled = [...list].sort((a, b) => Number(b.front) - Number(a.front)).flatMap((p) => {
    const width = 6.6 * p.title.length;
    const x = Math.min(Math.max(px(p.x) - width / 2, left), W - right - width), y = py(p.y) - 12;
    if (placed.some((q) => Math.abs(q.y - y) < 15 && x < q.x + q.width + 6 && q.x < x + width + 6)) return [];
    placed.push({ x, y, width });
    return [{ p, x, y }];
  });
  return (
    <figure class="scatter">
      <svg viewBox={`0 0 ${W} ${H}`} role="group" aria-label={`${change ? "Change of accuracy" : "Accuracy"} against ${value.title}`}>
        {ticks(y0, y1).map((t) => (
          <g key={t}><path class="grid" d={`M${left} ${py(t)}H${W - right}`} /><text class="tick end" x={left - 8} y={py(t) + 4}>{fixed(t, value.high > 2 ? 0 : 1)}</text></g>
        ))}
        {ticks(x0, x1).map((t) => (
          <g key={t}><path class="grid" d={`M${px(t)} ${top}V${H - bottom}`} /><text class="tick" x={px(t)} y={H - bottom + 18}>{show(t)}</text></g>
        ))}
        <text class="axis" x={(left + W - right) / 2} y={H - 6}>{change ? "accuracy against no protection" : "accuracy"} (better to the right)</text>
        <text class="axis" transform={`translate(14 ${(top + H - bottom) / 2}) rotate(-90)`}>{value.title} (better below)</text>
        {fronts.map((f, i) => <path key={i} class="front" d={"M" + f.map((p) => `${px(p.x)} ${py(p.y)}`).join("L")} />)}
        {theirs.map((p, i) => <g key={"t" + i}><title>{`${p.title}: ${inPoints(p.x)}, SSIM ${fixed(p.y, 3)}`}</title><Mark shape={0} x={px(p.x)} y={py(p.y)} kind="published" /></g>)}
        {list.map((p, i) => {
          const text = `${p.title}, ${p.setting}: ${show(p.x)}, ${value.title} ${fixed(p.y, value.digits)} by ${p.attack}${p.front ? ", on the Pareto front" : ""}${p.inBudget ? "" : ", outside the budget"}`;
          return (
            <g
              key={i} class={"point" + (p.inBudget ? "" : " out")} role="button" tabindex={0} aria-label={text}
              onClick={() => onOpen(p.record)}
              onKeyDown={(e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); onOpen(p.record); } }}
            ><title>{text}</title><Mark shape={settings.indexOf(p.setting)} x={px(p.x)} y={py(p.y)} kind={p.front ? "best" : "other"} /></g>
          );
        })}
        {labelled.map(({ p, x, y }, i) => (
          <text key={i} aria-hidden="true" class={"name" + (p.inBudget ? "" : " out")} x={x} y={y}>{p.title}</text>
        ))}
      </svg>
      <figcaption>
        <span class="muted">A line joins the Pareto front: nobody of the same setting is both more accurate and leaks less.</span>
        {settings.length > 1 && <span class="muted"> Shapes: {settings.map((s, i) => `${shapes[i % shapes.length]} ${s}`).join("; ")}.</span>}
        {theirs.length > 0 && <span class="muted"> Hollow: published.</span>}
      </figcaption>
    </figure>
  );
}
