// SPDX-License-Identifier: Apache-2.0
// One picture through a trained run, and what attackers make of it. Runs are jumped between, never interpolated.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { param, setParams } from "../../address";
import { Failure, get, indexed, pictureUrl, post } from "../../api";
import { bytes, fixed, interval, milliseconds, percent, scaled } from "../../format";
import type { Place, RunList, SplitRun, Trace } from "../../types";
import { Live } from "./live";
import { Controls, Empty, Field, Problem, Select, Skeleton, Slider, useLoaded } from "../../ui";

const visitor = Math.random().toString(36).slice(2);

function Stage({ title, note, children }: { title: string; note?: string; children: preact.ComponentChildren }) {
  return <li class="stage"><h3>{title}</h3>{children}{note && <p class="muted">{note}</p>}</li>;
}

function Small({ id, alt, side }: { id: string; alt: string; side: number }) {
  return <img class="small-picture" src={pictureUrl(id)} alt={alt} width={side} height={side} />;
}

// The network as a strip of cells with two handles, h and t.
function Strip({ run, head, tail, onMove }: { run: SplitRun; head: number; tail: number; onMove: (head: number, tail: number, done: boolean) => void }) {
  const svg = useRef<SVGSVGElement>(null);
  const cells = run.cells.length, W = 720, box = W / cells;
  const trained = new Set(run.places.filter((p) => p.run).map((p) => `${p.head},${p.tail}`));
  const fit = (h: number, t: number): [number, number] => {
    const head_ = Math.min(Math.max(1, h), cells - 2);
    return [head_, Math.min(Math.max(1, t), cells - 1 - head_)];
  };
  const drag = (which: "h" | "t") => (e: PointerEvent) => {
    const target = e.currentTarget as SVGElement;
    target.setPointerCapture(e.pointerId);
    let last: [number, number] = [head, tail];
    const at = (ev: PointerEvent) => {
      const bounds = svg.current!.getBoundingClientRect();
      const n = Math.round(((ev.clientX - bounds.left) / bounds.width) * cells);
      last = which === "h" ? fit(Math.min(n, cells - 1 - tail), tail) : fit(head, Math.min(cells - n, cells - 1 - head));
      onMove(last[0], last[1], false);
    };
    const up = () => {
      target.removeEventListener("pointermove", at);
      target.removeEventListener("pointerup", up);
      onMove(last[0], last[1], true);
    };
    target.addEventListener("pointermove", at);
    target.addEventListener("pointerup", up);
  };
  const key = (which: "h" | "t") => (e: KeyboardEvent) => {
    const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    e.preventDefault();
    const next = which === "h" ? fit(Math.min(head + step, cells - 1 - tail), tail) : fit(head, Math.min(tail - step, cells - 1 - head));
    onMove(next[0], next[1], true);
  };
  const handle = (which: "h" | "t", n: number, value: number) => (
    <g
      class="handle" role="slider" tabindex={0} aria-label={which === "h" ? "h: first cells on the edge" : "t: last cells on the edge"}
      aria-valuemin={1} aria-valuemax={cells - 2} aria-valuenow={value} onPointerDown={drag(which)} onKeyDown={key(which)}
    >
      <rect x={n * box - 12} y={4} width={24} height={92} class="grip-area" />
      <path d={`M${n * box} 10V92`} />
      <circle cx={n * box} cy={10} r={8} /><text x={n * box} y={14}>{which}</text>
    </g>
  );
  return (
    <div class="strip-scroll" tabIndex={0} role="group" aria-label="The network's cells and where it is split">
      <svg ref={svg} viewBox={`0 0 ${W} 118`} class="cells">
        {run.cells.map((c, i) => {
          const side = i < head || i >= cells - tail ? "edge" : "cloud";
          return (
            <g key={c.name}>
              <title>{`${c.name}: ${c.output}, ${scaled(c.flops, "FLOP")}, ${scaled(c.parameters)} parameters`}</title>
              <rect x={i * box + 3} y={30} width={box - 6} height={46} rx={5} class={side} />
              <text x={(i + 0.5) * box} y={50}>{c.name}</text>
              <text x={(i + 0.5) * box} y={66} class="dim">{c.output}</text>
            </g>
          );
        })}
        {Array.from({ length: cells - 1 }, (_, i) => i + 1).filter((h) => trained.has(`${h},${tail}`)).map((h) => <circle key={h} class="trained" cx={h * box} cy={104} r={4} />)}
        {handle("h", head, head)}
        {handle("t", cells - tail, tail)}
      </svg>
    </div>
  );
}

function Cost({ place, here }: { place: Place | undefined; here: Place | undefined }) {
  if (!place) return null;
  return (
    <dl class="tiles">
      <div><dt>Up</dt><dd>{bytes(place.bytes_up)}</dd></div>
      <div><dt>Down</dt><dd>{bytes(place.bytes_down)}</dd></div>
      <div><dt>Edge computes</dt><dd>{scaled(place.edge_flops, "FLOP")}</dd></div>
      <div><dt>Cloud computes</dt><dd>{scaled(place.cloud_flops, "FLOP")}</dd></div>
      <div><dt>Leaks at most</dt><dd>{place.ssim === undefined ? <span class="muted">not measured</span> : `SSIM ${fixed(place.ssim, 3)}`}</dd></div>
      <div><dt>Accuracy</dt><dd>{place.accuracy === undefined ? <span class="muted">not trained</span> : percent(place.accuracy)}</dd></div>
      {place !== here && <p class="muted wide">{place.run ? "A trained run: it opens when you let go." : "Nobody has trained this split here; the picture below stays with the trained run."}</p>}
    </dl>
  );
}

export function SplitRoom() {
  const runs = useLoaded(`runs ${indexed.value}`, (abort) => get<RunList>("runs?limit=500", abort));
  const finished = useMemo(() => (runs.value?.runs ?? []).filter((r) => r.status === "finished" && r.head !== undefined), [runs.value]);
  const wanted = param("run");
  const chosen = finished.find((r) => r.id === wanted) ?? (wanted ? undefined : finished.find((r) => r.title?.includes("P =")) ?? finished[0]);
  const loaded = useLoaded(chosen ? chosen.id : "", (abort) => get<SplitRun>(`split/${chosen!.id}`, abort));
  const run = loaded.value && loaded.value.entry.id === chosen?.id ? loaded.value : undefined;
  const image = Math.max(0, Math.round(Number(param("image", "0"))) || 0);
  const asked = param("sigma") === "" ? undefined : Number(param("sigma"));
  const sigma = asked !== undefined && Number.isFinite(asked) && run?.can_vary_sigma ? asked : undefined;
  const [moved, setMoved] = useState<[number, number] | null>(null);
  const [trace, setTrace] = useState<Trace>();
  const [error, setError] = useState<unknown>(null);
  useEffect(() => setMoved(null), [chosen?.id]);
  useEffect(() => {
    if (!run || run.unavailable) {
      setTrace(undefined);
      return;
    }
    const abort = new AbortController();
    setError(null);
    post<Trace>("split/trace", { run: run.entry.id, image, visitor, ...(sigma === undefined ? {} : { sigma }) }, abort.signal).then(
      (t) => { if (!abort.signal.aborted) setTrace(t); },
      (e) => { if (!abort.signal.aborted && !(e instanceof Failure && e.status === 409 && e.where === "trace")) setError(e); },
    );
    return () => abort.abort();
  }, [run?.entry.id, image, sigma]);

  if (runs.error) return <div class="padded"><Problem error={runs.error} /></div>;
  if (runs.loading && !runs.value) return <div class="padded"><Skeleton /></div>;
  if (finished.length === 0) {
    return <div class="padded"><Empty title="No run has finished yet" command="ensembler train --config demo --out runs/mine"><p>A finished training can be looked into here, one picture at a time.</p></Empty></div>;
  }

  const head = moved?.[0] ?? run?.entry.head ?? 1, tail = moved?.[1] ?? run?.entry.tail ?? 1;
  const placeAt = (h: number, t: number) => run?.places.find((p) => p.head === h && p.tail === t);
  const move = (h: number, t: number, done: boolean) => {
    setMoved([h, t]);
    const place = placeAt(h, t);
    if (done && place?.run && place.run !== run?.entry.id) setParams({ run: place.run, sigma: "" }, true);
  };
  const stops = (path: string) => (run?.stops ?? []).filter((s) => s.path === path);
  const jump = (path: string, value: number) => {
    const stop = stops(path).find((s) => s.value === value);
    if (stop && stop.run !== run?.entry.id) setParams({ run: stop.run, sigma: "" }, true);
  };
  const step = (by: number) => setParams({ image: String(Math.min(Math.max(0, image + by), (run?.images ?? 1) - 1)) });
  const trained = run?.sigma ?? 0;
  const attacks = (run?.attacks ?? []).filter((a) => a.reconstruction).sort((a, b) => (b.result.ssim?.mean ?? 0) - (a.result.ssim?.mean ?? 0));
  const side = 112;
  const many = (trace?.bodies.length ?? 0) > 1;

  return (
    <div class="room">
      <Controls>
        <Select
          label="Trained run" value={chosen?.id ?? ""} onChange={(v) => setParams({ run: v, sigma: "" }, true)}
          options={[...(chosen ? [] : [["", "choose one"] as [string, string]]), ...finished.map((r): [string, string] => [r.id, `${r.title}, ${r.data}, h = ${r.head} (${r.name})`])]}
        />
        {run && !run.unavailable && (
          <>
            <div class="field">
              <label for="image"><span class="label">Test picture, 0 to {(run.images ?? 1) - 1}</span></label>
              <div class="stepper">
                <button type="button" onClick={() => step(-1)} disabled={image <= 0}>Prev</button>
                <input id="image" type="number" min={0} max={(run.images ?? 1) - 1} value={image} onChange={(e) => setParams({ image: String(Math.min(Math.max(0, Number(e.currentTarget.value) || 0), (run.images ?? 1) - 1)) })} />
                <button type="button" onClick={() => step(1)} disabled={image >= (run.images ?? 1) - 1}>Next</button>
              </div>
            </div>
            <div class="two">
              <Field label="h, cells"><input type="number" min={1} max={run.cells.length - 1 - tail} value={head} onChange={(e) => move(Number(e.currentTarget.value), tail, true)} /></Field>
              <Field label="t, cells"><input type="number" min={1} max={run.cells.length - 1 - head} value={tail} onChange={(e) => move(head, Number(e.currentTarget.value), true)} /></Field>
            </div>
            {run.can_vary_sigma ? (
              <Slider label="σ, standard deviation of the noise" help={`Recomputed from the run's own weights when you let go. Trained with ${fixed(trained, 3)}; the attacks' numbers are of that one.`} value={sigma ?? trained} min={0} max={Math.max(1, 10 * trained)} step={0.01} onChange={(v) => setParams({ sigma: Math.abs(v - trained) < 1e-9 ? "" : String(v) })} />
            ) : <p class="muted">This protection has no noise that could be changed afterwards.</p>}
            {[["ensemble.nets", "N, server networks"], ["ensemble.selected", "P, answers that are read"], ["ensemble.lambda", "λ, penalty"], ["ensemble.sigma", "σ, trained with"]].map(([path, label]) => {
              const list = stops(path);
              const own = list.find((s) => s.run === run.entry.id)?.value;
              return list.length < 2 || own === undefined ? null : (
                <Slider key={path} label={label} help={`Trained here: ${list.map((s) => s.value).join(", ")}. Other values do not exist.`} value={own} min={list[0].value} max={list[list.length - 1].value} step={(list[list.length - 1].value - list[0].value) / 100} stops={list.map((s) => s.value)} onChange={(v) => jump(path, v)} />
              );
            })}
          </>
        )}
      </Controls>
      <div class="content">
        <header class="room-head">
          <h1>{run?.entry.title ?? chosen?.title ?? "Split inference"}</h1>
          <p class="muted">{run ? `${run.entry.setting}, accuracy ${percent(run.entry.accuracy)}` : ""}</p>
        </header>
        {!chosen && <Problem error={new Error("This run is not here (any more): choose another one.")} />}
        {loaded.error ? <Problem error={loaded.error} /> : !run && chosen ? <Skeleton lines={8} /> : null}
        {run?.unavailable && <div class="problem" role="note"><strong>No picture can be sent through this run.</strong><p>{run.unavailable}</p></div>}
        {run && run.cells.length > 0 && (
          <section class="card">
            <h2>Where the network is split</h2>
            <Strip run={run} head={head} tail={tail} onMove={move} />
            <p class="muted">Filled: on the edge. Drag h and t; a dot marks what was trained here.</p>
            <Cost place={placeAt(head, tail)} here={placeAt(run.entry.head ?? 1, run.entry.tail ?? 1)} />
          </section>
        )}
        {error ? <Problem error={error} /> : null}
        {trace && (
          <section class="card">
            <h2>One picture on its way</h2>
            <ol class="way">
              <Stage title="Edge sees" note={trace.label ? `It is: ${trace.label}` : undefined}><Small id={trace.image} alt={`Test picture ${image}, ${trace.label ?? ""}`} side={side} /></Stage>
              {trace.clean && <Stage title="Its features" note={`${trace.feature_shape}; first ${trace.shown_channels} channels`}><Small id={trace.clean} alt="Features before the protection" side={side} /></Stage>}
              <Stage title="Sent" note={`${bytes(trace.bytes_up)}, ${trace.dtype}${trace.noise_share !== undefined ? `; noise is ${percent(trace.noise_share, 0)} of its variance` : ""}`}><Small id={trace.sent!} alt="Features as they are sent" side={side} /></Stage>
              <Stage title={many ? `${trace.bodies.length} networks answer` : "The network answers"} note={`${bytes(trace.bytes_down)} down${many ? "; which of them count, only the edge knows" : ""}`}>
                <div class="bodies">{trace.bodies.map((b, i) => <Small key={i} id={b.picture!} alt={`Answer of server network ${i + 1}, ${b.shape}`} side={trace.bodies.length > 4 ? 34 : 52} />)}</div>
              </Stage>
              <Stage title="Class">
                <ul class="answers">{trace.answers.map((a) => (
                  <li key={a.name} class={a.name === trace.label ? "right" : ""}><span>{a.name}</span><meter min={0} max={1} value={a.probability} aria-label={a.name} /><span>{percent(a.probability, 0)}</span></li>
                ))}</ul>
              </Stage>
            </ol>
            <p class="muted">In this process: edge {milliseconds(trace.edge_ms)}, cloud {milliseconds(trace.cloud_ms)}{many ? ` for all ${trace.bodies.length}, one after another` : ""}, tail {milliseconds(trace.tail_ms)}.{sigma !== undefined && ` With σ = ${fixed(sigma, 2)} in place of the trained ${fixed(trained, 2)}.`}</p>
          </section>
        )}
        {run && !run.unavailable && <Live key={run.entry.id} run={run.entry.id} />}
        {run && (
          <section class="card">
            <h2>What attackers rebuilt from this run</h2>
            {attacks.length === 0 ? <p class="muted">No attack has left pictures here.</p> : (
              <ul class="rebuilt">
                <li><div class="strip"><img src={pictureUrl(attacks[0].original!)} alt="The images under attack" /></div><p><strong>The images under attack</strong></p></li>
                {attacks.map((a) => (
                  <li key={a.folder}><div class="strip"><img src={pictureUrl(a.reconstruction!)} alt={`Rebuilt by ${a.result.title}`} /></div>
                    <p><strong>{a.result.title}</strong> <span class="muted">({a.result.level})</span>: SSIM {interval(a.result.ssim, 3)}, PSNR {fixed(a.result.psnr?.mean, 1)} dB</p></li>
                ))}
              </ul>
            )}
            <p class="muted">Measured with the trained noise, on test images; best first. <a href={`#/matrix?group=${run.entry.group}`}>Whether an attack counts, in the matrix.</a></p>
          </section>
        )}
        {run?.certificate_text && <section class="card"><h2>Certificate</h2><pre tabIndex={0}>{run.certificate_text}</pre></section>}
      </div>
    </div>
  );
}
