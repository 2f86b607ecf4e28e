// SPDX-License-Identifier: Apache-2.0
import { disguiseText } from "../../text";
import type { Control } from "../../types";
import { Field, Slider } from "../../ui";
import { short } from "./model";

const names: Record<string, [string, string?]> = {
  block: ["Block size", "pixels"], noise: ["Noise level", "of 255"], unit: ["Encryption unit", "pixels"], permute: ["Blocks change places (permutation)"],
  side: ["Side"], share: ["Matrices"], matrix: ["Kind of matrix"], noise_law: ["Law of the noise"], noise_place: ["Noise is added"],
  key_bits: ["Key", "bits"], keys: ["Keys"], sigma: ["Standard deviation"], cell: ["Cell", "pixels"], epsilon: ["ε"],
  patch: ["Patch", "pixels"], width: ["Width of a code"], depth: ["Depth"], mix: ["Mixed with"], k: ["k, images in a mixture", "0: the usual"],
  encodings: ["T, encodings of an image"], queries: ["Queries"], answers: ["Mixtures of a query"], public_data: ["Public images of"],
  permute_labels: ["Rename the classes in secret"], store: ["Stored as"],
};
// Where the setting allows far more than anybody would try.
const most: Record<string, number> = { noise: 255, sigma: 1, cell: 32, epsilon: 1000, patch: 32, width: 2048, depth: 16, k: 16, encodings: 100, answers: 50 };

export function Setting({ control: c, value, set, off }: { control: Control; value: string; set: (v: string) => void; off?: string }) {
  const [title, unit] = names[short(c.path)] ?? [short(c.path).replace(/_/g, " ")];
  const label = unit ? `${title} (${unit})` : title;
  const help = off ?? c.doc?.replace(/`/g, "");
  const shown = value || (c.preset ?? "");
  if (c.kind === "switch") {
    return <Field label={title} help={help}><input type="checkbox" disabled={!!off} checked={shown === "true"} onChange={(e) => set(e.currentTarget.checked ? "true" : "false")} /></Field>;
  }
  if (c.kind === "choice") {
    return (
      <Field label={label} help={help}>
        <select value={shown} disabled={!!off} onChange={(e) => set(e.currentTarget.value)}>{c.choices.map((v) => <option key={v} value={v}>{v}</option>)}</select>
      </Field>
    );
  }
  if (c.kind === "text") return <Field label={label} help={help}><input type="text" value={shown} disabled={!!off} onChange={(e) => set(e.currentTarget.value)} /></Field>;
  const top = Math.min(c.high ?? 1e9, most[short(c.path)] ?? 1e9), low = Math.max(c.low ?? 0, 0);
  if (top > 1e6 || short(c.path) === "epsilon") {
    return <Field label={label} help={help}><input type="number" step="any" min={c.low} max={c.high} value={shown} disabled={!!off} onChange={(e) => set(e.currentTarget.value)} /></Field>;
  }
  return <Slider label={title} unit={unit} help={help} value={Number(shown)} min={c.kind === "integer" ? c.low ?? 0 : low} max={top} step={c.kind === "integer" || top > 10 ? 1 : 0.01} disabled={!!off} onChange={(v) => set(String(v))} />;
}

// In the first tab the source's figure shows what belongs to either method; the other one's is grey.
export function offFor(method: string, path: string): string | undefined {
  if (method === "rmt" && path.startsWith("disguise.aes.")) return disguiseText.unitOff;
  if (method === "aes" && path.startsWith("disguise.rmt.")) return disguiseText.rmtOff;
  return undefined;
}

