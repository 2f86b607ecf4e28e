// SPDX-License-Identifier: Apache-2.0
// One number of a training over its epochs, a line for each network.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { fixed } from "../../format";
import type { CurveLine } from "../../types";
import { dark } from "../../ui";

const strokes = ["#2f6fc4", "#c2691c", "#2b8a57", "#8a56b8", "#b23a55", "#5b7083", "#8a7a14", "#1c8c9b"];

export function Plot({ title, lines }: { title: string; lines: CurveLine[] }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const isDark = dark.value;
  const names = lines.map((l) => l.label ?? `${l.stage}, ${l.net < 0 ? "all" : `network ${l.net + 1}`}`);
  const xs = [...new Set(lines.flatMap((l) => l.x))].sort((a, b) => a - b);
  const data = [xs, ...lines.map((l) => {
    const at = new Map(l.x.map((x, i) => [x, l.y[i]]));
    return xs.map((x) => at.get(x) ?? null);
  })] as uPlot.AlignedData;
  useEffect(() => {
    if (!box.current) return;
    const axis = { stroke: isDark ? "#a2abb7" : "#59616d", grid: { stroke: isDark ? "#2b3038" : "#dfe3e8" }, ticks: { show: false } };
    const made = new uPlot({
      width: box.current.clientWidth, height: 240, legend: { live: false }, scales: { x: { time: false } },
      cursor: { drag: { x: false, y: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis, size: 56 }],
      series: [{ label: "epoch" }, ...names.map((label, i) => ({ label, stroke: strokes[i % strokes.length], width: 1.8, dash: i < strokes.length ? undefined : [6, 4], spanGaps: true, points: { show: xs.length < 30, size: 5 } }))],
    }, data, box.current);
    plot.current = made;
    const resize = new ResizeObserver(() => box.current && made.setSize({ width: box.current.clientWidth, height: 240 }));
    resize.observe(box.current);
    return () => {
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names.join("|"), isDark]);
  useEffect(() => {
    plot.current?.setData(data);
  }, [JSON.stringify(data)]);
  const last = lines.map((l, i) => `${names[i]}: ${fixed(l.y[l.y.length - 1], 3)}`).join("; ");
  const thinned = lines.find((l) => l.points > l.x.length);
  return (
    <figure class="card">
      <h2>{title}</h2>
      <div class="plot" ref={box} role="img" aria-label={`${title} by epoch. Last: ${last}`} />
      {thinned && <figcaption class="muted">{thinned.x.length} of {thinned.points} points: of each stretch the smallest and the largest.</figcaption>}
    </figure>
  );
}
