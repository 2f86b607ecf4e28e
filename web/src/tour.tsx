// SPDX-License-Identifier: Apache-2.0
// Six steps for a first visit: skippable, remembered, by keyboard too.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { address } from "./address";
import { state, still } from "./api";
import { rooms } from "./rooms";
import { tour } from "./text";

const kSeen = "tour-seen";
function seen(): boolean {
  try {
    return localStorage.getItem(kSeen) !== null;
  } catch {
    return false;
  }
}
// -1: not on tour.
export const step = signal(-1);
export const offered = signal(!still && !seen());

function remember(): void {
  offered.value = false;
  try {
    localStorage.setItem(kSeen, "1");
  } catch {
    // Private windows may refuse: it is offered again another time.
  }
}

const steps = () => tour.filter((t) => rooms.some((r) => r.name === t.room && (!r.server || state.value?.rooms.some((s) => s.name === r.name))));

export function startTour(): void {
  remember();
  go(0);
}

function go(n: number): void {
  const all = steps();
  if (n < 0) return;
  step.value = n < all.length ? n : -1;
  const next = all[n];
  if (next && address.value.room !== next.room) location.hash = "#/" + next.room;
}

export function Offer() {
  if (!offered.value || address.value.room !== "") return null;
  return (
    <p class="note bar offer">New here? Six steps show what there is. <button type="button" class="primary" onClick={startTour}>Take the tour</button>
      <button type="button" class="quiet" onClick={remember}>No, thanks</button></p>
  );
}

export function Tour() {
  const n = step.value;
  const all = steps();
  const now = all[n];
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!now) return;
    box.current?.focus();
    let marked: Element | null = null;
    // What a step speaks of may still be on its way.
    const mark = () => {
      const found = now.at.split(", ").map((s) => document.querySelector(s)).find(Boolean) ?? null;
      if (!found || (found === marked && found.classList.contains("toured"))) return;
      marked?.classList.remove("toured");
      found.classList.add("toured");
      if (found !== marked) found.scrollIntoView({ block: "center" });
      marked = found;
    };
    mark();
    const timer = setInterval(mark, 200);
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") step.value = -1;
    };
    window.addEventListener("keydown", key);
    return () => {
      clearInterval(timer);
      window.removeEventListener("keydown", key);
      marked?.classList.remove("toured");
    };
  }, [n]);
  if (!now) return null;
  const last = n === all.length - 1;
  return (
    <div class="tour" ref={box} tabIndex={-1} role="dialog" aria-label={`Tour, step ${n + 1} of ${all.length}: ${now.title}`}>
      <p class="muted">Step {n + 1} of {all.length}</p>
      <h2>{now.title}</h2>
      <p>{now.text}</p>
      <div class="buttons">
        <button type="button" class="primary" onClick={() => go(n + 1)}>{last ? "Done" : "Next step"}</button>
        {n > 0 && <button type="button" onClick={() => go(n - 1)}>Back</button>}
        {!last && <button type="button" class="quiet" onClick={() => { step.value = -1; }}>Skip the tour</button>}
      </div>
    </div>
  );
}
