// SPDX-License-Identifier: Apache-2.0
// Original, disguised, rebuilt, side by side; where the pointer is in one of them, all are enlarged.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { pictureUrl } from "../../api";
import { scalesFor } from "./model";

interface Spot { u: number; v: number }

type Size = [number, number];

function Pane({ title, id, alt, place, size, scale, onSize, spot, zoom, onSpot, children }: {
  title: string; id?: string; alt: string; place: number; size?: Size; scale: number; onSize: (s: Size) => void; spot: Spot | null; zoom: number;
  onSpot: (s: Spot | null) => void; children?: ComponentChildren;
}) {
  const key = (e: KeyboardEvent) => {
    const step: Record<string, [number, number]> = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    const clip = (x: number) => Math.min(1, Math.max(0, x));
    if (e.key === "Enter") onSpot(spot ? null : { u: 0.5, v: 0.5 });
    else if (spot && step[e.key]) onSpot({ u: clip(spot.u + step[e.key][0]), v: clip(spot.v + step[e.key][1]) });
    else return;
    e.preventDefault();
    e.stopPropagation();
  };
  return (
    <figure class="pane">
      <h2>{title}</h2>
      {id ? (
        <div
          class="pane-frame" tabIndex={0} role="group" aria-label={`${alt}. Enter enlarges, arrow keys move.`} onKeyDown={key}
          onPointerMove={(e) => {
            const box = e.currentTarget.getBoundingClientRect();
            onSpot({ u: (e.clientX - box.left) / box.width, v: (e.clientY - box.top) / box.height });
          }}
          onPointerLeave={() => onSpot(null)}
        >
          <img
            src={pictureUrl(id)} alt={alt} onLoad={(e) => onSize([e.currentTarget.naturalWidth, e.currentTarget.naturalHeight])}
            style={size ? {
              width: `${size[0] * scale}px`, height: `${size[1] * scale}px`,
              transform: spot ? `scale(${zoom})` : "none", transformOrigin: spot ? `${100 * spot.u}% ${100 * spot.v}%` : "0 0",
            } : { visibility: "hidden" }}
          />
        </div>
      ) : <div class="pane-frame vacant" style={{ minHeight: `${Math.min(place, 250)}px` }}><p class="muted">{alt}</p></div>}
      <figcaption>{children}{size && scale < 1 && <span class="muted"> Shown smaller than it is.</span>}</figcaption>
    </figure>
  );
}

export function Panes({ panes, zoom }: { panes: { title: string; id?: string; alt: string; note?: ComponentChildren }[]; zoom: number }) {
  const box = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState(250);
  const [spot, setSpot] = useState<Spot | null>(null);
  const [sizes, setSizes] = useState<Record<string, Size>>({});
  const there = panes.filter((p) => p.id && sizes[p.title]).map((p) => sizes[p.title]);
  const scales = scalesFor(place, 420, there);
  useEffect(() => {
    const measure = () => {
      const first = box.current?.querySelector(".pane");
      if (first) setPlace(Math.floor(first.clientWidth));
    };
    measure();
    const seen = new ResizeObserver(measure);
    if (box.current) seen.observe(box.current);
    return () => seen.disconnect();
  }, []);
  return (
    <div class="panes" ref={box}>
      {panes.map((p) => (
        <Pane
          key={p.title} title={p.title} id={p.id} alt={p.alt} place={place} size={sizes[p.title]} scale={scales[there.indexOf(sizes[p.title])] ?? 1}
          onSize={(size) => setSizes((old) => ({ ...old, [p.title]: size }))} spot={spot} zoom={zoom} onSpot={setSpot}
        >{p.note}</Pane>
      ))}
    </div>
  );
}
