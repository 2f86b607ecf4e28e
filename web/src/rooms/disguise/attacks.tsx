// SPDX-License-Identifier: Apache-2.0
// What attacks made of the pictures: the one that is shown, all that were run, and those of runs that were measured before.
import { useState } from "preact/hooks";
import { get, indexed, pictureUrl } from "../../api";
import { fixed, interval, percent, when } from "../../format";
import { ladder, sourceNames } from "../../text";
import type { DisguiseAttack, DisguiseChoices, DisguisePreview, RunList, RunView } from "../../types";
import { Command, Help, Slider, useLoaded } from "../../ui";
import { best, verdictAt } from "./model";

export function Word({ word }: { word?: string }) {
  return word ? <span class={"verdict " + word.replace(/ .*/, "")}>{word}</span> : null;
}

// SSIM by the number of known pairs, on a logarithmic axis.
function Curve({ result, at, onPick }: { result: DisguiseAttack; at: number; onPick: (i: number) => void }) {
  const W = 420, H = 130, left = 34, bottom = 26, top = 10;
  const xs = result.points.map((p) => Math.log10(p.x!));
  const span = Math.max(1e-9, xs[xs.length - 1] - xs[0]);
  const px = (i: number) => left + ((xs[i] - xs[0]) / span) * (W - left - 14);
  const py = (v: number) => H - bottom - Math.max(0, Math.min(1, v)) * (H - top - bottom);
  const line = (of: (i: number) => number | undefined) => "M" + result.points.map((_, i) => `${px(i)} ${py(of(i) ?? 0)}`).join("L");
  return (
    <svg class="curve" viewBox={`0 0 ${W} ${H}`} role="img" aria-label={`By known pairs: ${result.points.map((p) => `${p.x}: SSIM ${fixed(p.ssim?.mean, 2)}, rank-1 ${percent(p.rank1?.mean, 0)}`).join("; ")}`}>
      {[0, 0.5, 1].map((v) => <g key={v}><path class="grid" d={`M${left} ${py(v)}H${W - 10}`} /><text class="end" x={left - 6} y={py(v) + 4}>{fixed(v, 1)}</text></g>)}
      {result.points.map((p, i) => <text key={i} x={px(i)} y={H - 8}>{p.x}</text>)}
      <path class="ssim" d={line((i) => result.points[i].ssim?.mean)} />
      <path class="rank" d={line((i) => result.points[i].rank1?.mean)} />
      {result.points.map((p, i) => <circle key={i} class={i === at ? "here" : ""} cx={px(i)} cy={py(p.ssim?.mean ?? 0)} r={i === at ? 6 : 4} onClick={() => onPick(i)} />)}
    </svg>
  );
}

export function Result({ result, at, onPick }: { result: DisguiseAttack; at: number; onPick: (i: number) => void }) {
  const p = result.points[at] ?? best(result);
  const curve = result.points.length > 1 && result.points.every((q) => q.x !== undefined);
  return (
    <section class="card" aria-live="polite">
      <h2>Attack: {result.title}{sourceNames[result.attack] && <span class="muted"> (the source: {sourceNames[result.attack]})</span>}</h2>
      <p class="muted">{result.level}: {ladder[result.level] ?? ""}. {fixed(result.seconds, 1)} s here; {result.scored_images} pictures scored, each looked for among {result.gallery}.</p>
      <dl class="tiles">
        <div><dt>SSIM, shown / all</dt><dd>{fixed(p.shown_ssim, 3)} / {fixed(p.ssim?.mean, 3)}</dd></div>
        <div><dt>PSNR, shown / all</dt><dd>{fixed(p.shown_psnr, 1)} / {fixed(p.psnr?.mean, 1)} dB</dd></div>
        <div><dt>Rank-1 <Help text={`Share of the pictures whose original is found first among ${result.gallery}. Chance is ${percent(1 / result.gallery)}.`} /></dt><dd>{percent(p.rank1?.mean)}</dd></div>
        <div><dt>Guesses, median</dt><dd>{p.guesswork === undefined ? "–" : fixed(p.guesswork, 0)}</dd></div>
        {p.hits !== undefined && <div><dt>Codebook hits <Help text="Share of the units of unknown pictures that the codebook holds; behind it that of units that are not of one value." /></dt><dd>{percent(p.hits)} / {percent(p.hits_non_constant)}</dd></div>}
        <div><dt>By this attack</dt><dd>{p.verdict === "good" ? "finds none" : <Word word={p.verdict} />}</dd></div>
      </dl>
      {curve && (
        <div class="pairs">
          <Slider label="Known pairs" help="Numbers of pairs that were tried; others were not." value={at} min={0} max={result.points.length - 1} step={1} shown={(i) => String(result.points[i]?.x ?? "")} onChange={onPick} onInput={onPick} />
          <Curve result={result} at={at} onPick={onPick} />
          <p class="muted legend-line"><span class="key ssim" aria-hidden="true" /> SSIM <span class="key rank" aria-hidden="true" /> rank-1, by the number of known pairs</p>
        </div>
      )}
    </section>
  );
}

// Every attack of the registry: what it would need, what it found.
export function AttackTable({ choices, preview, done, chosen, busy, fresh, onRun }: {
  choices: DisguiseChoices; preview?: DisguisePreview; done: DisguiseAttack[]; chosen: string; busy: string; fresh: boolean; onRun: (attack: string) => void;
}) {
  const applies = new Map((preview?.attacks ?? []).map((a) => [a.attack, a]));
  const wanted = choices.attacks.map((a) => ({ attack: a.name, level: a.level })).filter((a) => applies.get(a.attack)?.quick && !applies.get(a.attack)?.reason);
  const levels = [...new Set(wanted.map((a) => a.level))].map((level) => ({ level, ...verdictAt(level, done, wanted) }));
  return (
    <section class="card">
      <h2>What each attacker finds <Help text="The words of NeuraCrypt's challenge, by the strongest attack that knows no more than the level: rank-1 above 20 % bad, 5 to 20 % moderate, below 5 % good, if the attack reads plain pictures and every attack of the level was run." /></h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Attacks">
        <table class="attack-table">
          <thead><tr><th scope="col">Attack</th><th scope="col">Knows</th><th scope="col" class="number">Rank-1</th><th scope="col" class="number">SSIM</th><th scope="col" class="number">PSNR</th><th scope="col">Alone</th></tr></thead>
          <tbody>
            {choices.attacks.map((a) => {
              const result = done.find((d) => d.attack === a.name);
              const p = result && best(result);
              const info = applies.get(a.name);
              return (
                <tr key={a.name} class={a.name === chosen ? "chosen-row" : ""}>
                  <th scope="row">
                    {info?.quick && !info.reason ? <button type="button" class="linked" disabled={busy !== "" || !fresh} onClick={() => onRun(a.name)}>{a.title}</button> : a.title}
                    {sourceNames[a.name] && <small>{sourceNames[a.name]}</small>}
                  </th>
                  <td title={ladder[a.level]}>{a.level}</td>
                  {p ? <><td class="number">{percent(p.rank1?.mean)}</td><td class="number">{fixed(p.ssim?.mean, 3)}</td><td class="number">{fixed(p.psnr?.mean, 1)}</td><td>{p.verdict === "good" ? <span class="muted">finds none</span> : <Word word={p.verdict} />}</td></>
                    : <td colSpan={4} class="muted">{busy === a.name ? "at work …" : info?.reason ? info.reason : info && !info.quick ? "takes too long here: see what was measured before, below" : "not run yet"}</td>}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {levels.some((l) => l.by) && (
        <dl class="tiles verdicts">{levels.map((l) => (
          <div key={l.level}><dt>{l.level}</dt><dd>{l.word ? <Word word={l.word} /> : <span class="muted">open</span>} <small>{l.by ? `${percent(best(l.by).rank1?.mean, 0)} by ${l.by.attack}` : ""}{l.missing ? ` · ${l.missing} not run` : ""}</small></dd></div>
        ))}</dl>
      )}
    </section>
  );
}

const commands: Record<string, string> = { rmt: "disguise-rmt", aes: "disguise-aes" };

function OneRun({ id, attack }: { id: string; attack: string }) {
  const run = useLoaded(`${id} ${indexed.value}`, (abort) => get<RunView>(`runs/${id}`, abort));
  const view = run.value;
  if (!view) return null;
  const scored = view.attacks.filter((a) => a.result.ssim?.mean !== undefined);
  const shown = scored.find((a) => a.result.attack === attack) ?? [...scored].sort((a, b) => (b.result.matching?.rank1?.mean ?? 0) - (a.result.matching?.rank1?.mean ?? 0))[0];
  return (
    <li>
      <h3>{view.entry.title}</h3>
      <p class="muted">{view.entry.setting}, accuracy {percent(view.entry.accuracy)}, measured {when(view.entry.changed)}{view.device ? ` on ${view.device}` : ""}</p>
      {shown?.original && shown.reconstruction && (
        <div class="strips">
          <figure><div class="strip"><img src={pictureUrl(shown.original)} alt="The pictures under attack" loading="lazy" /></div></figure>
          <figure><div class="strip"><img src={pictureUrl(shown.reconstruction)} alt={`Rebuilt by ${shown.result.title}`} loading="lazy" /></div>
            <figcaption><strong>{shown.result.title}</strong> ({shown.result.level}): SSIM {interval(shown.result.ssim, 3)}, rank-1 {percent(shown.result.matching?.rank1?.mean)} of {shown.result.matching?.gallery ?? "–"}</figcaption></figure>
        </div>
      )}
      {scored.length > 0 && (
        <details><summary>All {scored.length} attacks</summary>
          <ul class="plain">{scored.map((a) => <li key={a.folder}>{a.result.title} ({a.result.level}): SSIM {fixed(a.result.ssim?.mean, 3)}, PSNR {fixed(a.result.psnr?.mean, 1)} dB, rank-1 {percent(a.result.matching?.rank1?.mean)}</li>)}</ul>
        </details>
      )}
      {shown?.command && <details><summary>The command</summary>{view.command && <Command text={view.command} />}<Command text={shown.command} /></details>}
      <p><a href={`#/cloud?run=${id}`}>Its training</a></p>
    </li>
  );
}

// Whole trainings with all attacks: minutes or hours, so they are opened and not run here.
export function Measured({ method, attack }: { method: string; attack: string }) {
  const [all, setAll] = useState(false);
  const runs = useLoaded(`measured ${indexed.value}`, (abort) => get<RunList>("runs?limit=500", abort));
  const list = (runs.value?.runs ?? []).filter((r) => r.method === method && r.status === "finished");
  const config = commands[method];
  const train = `ensembler train ${config ? `--config ${config}` : `--set disguise.method=${method}`} --out runs/${method}`;
  return (
    <section class="card">
      <h2>Measured before, on whole trainings</h2>
      {list.length === 0 ? (
        <><p class="muted">No finished run with this method lies in the studio's folder. These commands make one, in minutes:</p>
          <Command text={`${train} && ensembler attack runs/${method}`} /></>
      ) : <ul class="measured">{list.slice(0, all ? 40 : 3).map((r) => <OneRun key={r.id} id={r.id} attack={attack} />)}</ul>}
      {list.length > 3 && !all && <button type="button" onClick={() => setAll(true)}>All {list.length}</button>}
    </section>
  );
}
