// SPDX-License-Identifier: Apache-2.0
// What is behind one cell, or behind two.
import { get, state } from "../../api";
import { bytes, duration, fixed, interval, milliseconds, percent, points, scaled } from "../../format";
import type { RunView } from "../../types";
import { Command, Picture, Problem, Skeleton, useLoaded } from "../../ui";
import type { Record_, Value } from "./model";

function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

export function Detail({ record, value }: { record: Record_; value: Value }) {
  const { cell, row } = record;
  const loaded = useLoaded(cell.run ?? "", (abort) => get<RunView>(`runs/${cell.run}`, abort));
  const view = loaded.value?.attacks.find((a) => a.folder === cell.folder);
  const result = view?.result;
  const split = state.value?.rooms.some((r) => r.name === "split");
  return (
    <div class="detail">
      <p class="where"><strong>{record.protection}</strong><br />attacked by <strong>{record.attack}</strong> ({cell.level || "unknown level"})<br /><span class="muted">{record.setting}</span></p>
      {cell.error && <p class="problem" role="note">The attack failed: {cell.error}</p>}
      {cell.pointless && <p class="note">{cell.pointless}</p>}
      {cell.ssim?.mean !== undefined && (
        <dl class="facts">
          <Fact name={value.title}>{value.range ? interval(value.range(cell), value.digits) : fixed(value.of(cell), value.digits)}</Fact>
          {value.name !== "ssim" && <Fact name="SSIM">{interval(cell.ssim, 3)}</Fact>}
          <Fact name="PSNR">{interval(cell.psnr, 2)} dB</Fact>
          {cell.own_pick !== undefined && <Fact name="Attacker's own pick">{fixed(cell.own_pick, 3)}</Fact>}
          {cell.reidentified !== undefined && <Fact name="Rank-1">{percent(cell.reidentified)}</Fact>}
          {cell.recognised !== undefined && <Fact name="Recognised">{percent(cell.recognised)}</Fact>}
          {cell.of_oracle !== undefined && <Fact name="Of the decoder on true features">{percent(cell.of_oracle, 0)}</Fact>}
          <Fact name={row.disguised ? "By this attack" : "Worth"}>{cell.strength || "–"}{cell.why ? <span class="muted">: {cell.why}</span> : ""}</Fact>
          <Fact name="Seeds">{cell.seeds}</Fact>
          {result?.scored_images && <Fact name="Scored images">{result.scored_images}</Fact>}
          {result?.seconds !== undefined && <Fact name="Attack took">{duration(result.seconds)}{result.device ? <span class="muted"> on {result.device}</span> : ""}</Fact>}
        </dl>
      )}
      <dl class="facts">
        <Fact name="Accuracy">{percent(row.accuracy?.mean)} <span class="muted">{points(row.change?.mean)}</span></Fact>
        <Fact name="Sent, answered">{bytes(row.bytes_up)} up, {bytes(row.bytes_down)} down</Fact>
        <Fact name="Edge computes">{scaled(row.edge_flops, "FLOP")}{row.edge_ms !== undefined ? `, ${milliseconds(row.edge_ms)}` : ""}</Fact>
        {row.bits !== undefined && <Fact name="Certified">at most {fixed(row.bits, 0)} bits a request</Fact>}
      </dl>
      {loaded.error ? <Problem error={loaded.error} /> : loaded.loading && cell.run ? <Skeleton /> : null}
      {view?.original && view.reconstruction && (
        <div class="pair">
          <h3>Original, and rebuilt</h3>
          <Picture id={view.original} alt={`Originals of the images under attack by ${record.attack}`} scale={2} />
          <Picture id={view.reconstruction} alt={`Rebuilt by ${record.attack} against ${record.protection}, SSIM ${fixed(cell.ssim?.mean, 3)}`} scale={2} />
        </div>
      )}
      {result && result.parts.length > 1 && (
        <details><summary>{result.parts.length} candidates</summary>
          <ul class="plain">{result.parts.slice(0, 50).map((p, i) => <li key={i}>{p.name ?? i}: SSIM {fixed(p.ssim, 3)}</li>)}</ul>
        </details>
      )}
      {view?.command && <><h3>Measure it again</h3><Command text={view.command} /></>}
      {loaded.value?.command && <details><summary>How the run was trained</summary><Command text={loaded.value.command} /><p class="muted">{loaded.value.device}, version {loaded.value.version}, revision {loaded.value.revision}</p></details>}
      {loaded.value?.certificate_text && <details><summary>Certificate</summary><pre tabIndex={0}>{loaded.value.certificate_text}</pre></details>}
      {loaded.value && loaded.value.damage.length > 0 && <details open><summary>What could not be read</summary><ul class="plain">{loaded.value.damage.map((d) => <li key={d}>{d}</li>)}</ul></details>}
      {row.disguised && cell.run && <p><a href={`#/disguise?method=${row.protection === "rmt" ? "" : row.protection}`}>Try the method</a> · <a href={`#/cloud?run=${cell.run}`}>Its training</a></p>}
      {split && !row.disguised && cell.run && <p><a href={`#/split?run=${cell.run}`}>Send a picture through this run</a></p>}
    </div>
  );
}
