// SPDX-License-Identifier: Apache-2.0
// Pieces that several rooms use.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, pictureUrl } from "./api";

// ---- theme

const media = matchMedia("(prefers-color-scheme: dark)");
type Theme = "system" | "light" | "dark";
function stored(): Theme {
  try {
    return (localStorage.getItem("theme") as Theme) || "system";
  } catch {
    return "system";
  }
}
export const theme = signal<Theme>(stored());
export const dark = signal(media.matches);
function applyTheme(): void {
  dark.value = theme.value === "dark" || (theme.value === "system" && media.matches);
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
}
media.addEventListener("change", applyTheme);
applyTheme();
export function setTheme(next: Theme): void {
  theme.value = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Private windows may refuse: it then lasts as long as the page.
  }
  applyTheme();
}

// ---- small things

export function Skeleton({ lines = 4 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status">
      <span class="sr">Loading …</span>
      {Array.from({ length: lines }, (_, i) => <div key={i} />)}
    </div>
  );
}

export function Problem({ error }: { error: unknown }) {
  const f = error instanceof Failure ? error : new Failure(0, error instanceof Error ? error.message : String(error));
  return (
    <div class="problem" role="alert">
      <strong>{f.message}</strong>
      {f.where && <span class="muted"> ({f.where})</span>}
      {f.hint && <p>{f.hint}</p>}
    </div>
  );
}

export function Empty({ title, command, children }: { title: string; command?: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
      {command && <Command text={command} />}
    </div>
  );
}

export function Command({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <div class="command">
      <code tabIndex={0}>{text}</code>
      <button
        type="button" class="quiet"
        onClick={() => copy(text).then((ok) => { setCopied(ok); setTimeout(() => setCopied(false), 1500); })}
      >{copied ? "Copied" : "Copy"}</button>
    </div>
  );
}

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

// A label with an explanation that pointer and keyboard reach.
export function Help({ text }: { text: string }) {
  return (
    <span class="help" tabIndex={0} role="note" aria-label={text}>
      <span aria-hidden="true">?</span>
      <span class="bubble" aria-hidden="true">{text}</span>
    </span>
  );
}

export function Field({ label, help, children }: { label: string; help?: string; children: ComponentChildren }) {
  return (
    <div class="field">
      <label>
        <span class="label">{label}</span>
        {children}
      </label>
      {help && <Help text={help} />}
    </div>
  );
}

export function Select({ label, help, value, options, onChange }: {
  label: string; help?: string; value: string; options: [string, string][]; onChange: (value: string) => void;
}) {
  return (
    <Field label={label} help={help}>
      <select value={value} onChange={(e) => onChange(e.currentTarget.value)}>
        {options.map(([v, text]) => <option key={v} value={v}>{text}</option>)}
      </select>
    </Field>
  );
}

// A slider with a number field. `onInput` while it moves, `onChange` when it is let go.
// `shown`: what stands for a value of a slider over a list, in place of the number field.
export function Slider({ label, unit, help, value, min, max, step, stops, shown: text, onInput, onChange, disabled }: {
  label: string; unit?: string; help?: string; value: number; min: number; max: number; step: number;
  stops?: number[]; shown?: (v: number) => string; onInput?: (v: number) => void; onChange: (v: number) => void; disabled?: boolean;
}) {
  const [moving, setMoving] = useState<number | null>(null);
  const shown = moving ?? value;
  const id = useRef("s" + Math.random().toString(36).slice(2)).current;
  const settle = (text: string) => {
    let v = Number(text);
    if (text === "" || !Number.isFinite(v)) return setMoving(null);
    v = Math.min(max, Math.max(min, v));
    if (stops?.length) v = stops.reduce((a, b) => (Math.abs(b - v) < Math.abs(a - v) ? b : a));
    setMoving(null);
    onChange(v);
  };
  return (
    <div class="field slider">
      <label for={id}><span class="label">{label}{unit ? ` (${unit})` : ""}</span></label>
      {help && <Help text={help} />}
      <div class="slider-row">
        <input
          id={id} type="range" min={min} max={max} step={step} value={shown} disabled={disabled}
          list={stops?.length ? id + "-stops" : undefined} aria-valuetext={text?.(shown)}
          onInput={(e) => { const v = Number(e.currentTarget.value); setMoving(v); onInput?.(v); }}
          onChange={(e) => settle(e.currentTarget.value)}
        />
        {text ? <output for={id}>{text(shown)}</output> : <input
          type="number" aria-label={`${label}, number`} min={min} max={max} step={step} disabled={disabled}
          value={Number(shown.toPrecision(4))} onChange={(e) => settle(e.currentTarget.value)}
        />}
      </div>
      {stops?.length ? <datalist id={id + "-stops"}>{stops.map((s) => <option key={s} value={s} />)}</datalist> : null}
    </div>
  );
}

// Buttons of which one is chosen, moved between by arrow keys.
export function Tabs({ label, value, options, onChange }: {
  label: string; value: string; options: [string, string][]; onChange: (value: string) => void;
}) {
  const move = (e: KeyboardEvent) => {
    const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    e.preventDefault();
    const i = options.findIndex(([v]) => v === value);
    const next = (i + step + options.length) % options.length;
    onChange(options[next][0]);
    ((e.currentTarget as HTMLElement).children[next] as HTMLElement).focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label={label} onKeyDown={move}>
      {options.map(([v, text]) => (
        <button
          key={v} type="button" role="tab" aria-selected={v === value} tabIndex={v === value ? 0 : -1}
          onClick={() => onChange(v)}
        >{text}</button>
      ))}
    </div>
  );
}

// A picture of a few pixels at a whole multiple of its size.
export function Picture({ id, alt, scale = 4, crop }: { id: string; alt: string; scale?: number; crop?: number }) {
  const [size, setSize] = useState<[number, number] | null>(null);
  const ref = useRef<HTMLImageElement>(null);
  useEffect(() => {
    const image = ref.current;
    if (image && size) {
      image.style.width = `${size[0] * scale}px`;
      image.style.height = `${size[1] * scale}px`;
    }
  }, [size, scale]);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (box.current && crop && size) box.current.style.maxWidth = `${crop * size[1] * scale}px`;
  }, [crop, size, scale]);
  return (
    <div class="picture" ref={box} tabIndex={0} role="group" aria-label={alt}>
      <img
        ref={ref} src={pictureUrl(id)} alt={alt}
        onLoad={(e) => setSize([e.currentTarget.naturalWidth, e.currentTarget.naturalHeight])}
      />
    </div>
  );
}

// A panel over the page, or beside it where there is room. Esc closes it.
export function Panel({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current?.focus();
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") onClose();
    };
    window.addEventListener("keydown", key);
    return () => {
      window.removeEventListener("keydown", key);
      before?.focus?.();
    };
  }, []);
  return (
    <aside class="panel" ref={ref} tabIndex={-1} aria-label={title}>
      <header>
        <h2>{title}</h2>
        <button type="button" class="quiet" onClick={onClose} aria-label="Close">✕</button>
      </header>
      {children}
    </aside>
  );
}

// The controls of a room: a column where there is room, a sheet to unfold where there is not.
export function Controls({ children }: { children: ComponentChildren }) {
  const wide = matchMedia("(min-width: 900px)").matches;
  return (
    <details class="controls" open={wide}>
      <summary>Controls</summary>
      <div class="controls-body">{children}</div>
    </details>
  );
}

// Loads whenever `key` changes; the answer to an older key is dropped.
export function useLoaded<T>(key: string, load: (abort: AbortSignal) => Promise<T>): { value?: T; error?: unknown; loading: boolean } {
  const [result, setResult] = useState<{ key: string; value?: T; error?: unknown }>({ key: "" });
  useEffect(() => {
    if (!key) return;
    const abort = new AbortController();
    load(abort.signal).then(
      (value) => { if (!abort.signal.aborted) setResult({ key, value }); },
      (error) => { if (!abort.signal.aborted) setResult((r) => ({ key, value: r.key === key ? r.value : undefined, error })); },
    );
    return () => abort.abort();
  }, [key]);
  return { value: result.value, error: result.key === key ? result.error : undefined, loading: result.key !== key };
}

export function download(name: string, blob: Blob): void {
  const url = URL.createObjectURL(blob);
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
