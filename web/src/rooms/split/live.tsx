// SPDX-License-Identifier: Apache-2.0
// Latencies with a cloud that runs: of the last minute, asked for as long as the page is looked at.
import { useEffect, useState } from "preact/hooks";
import { get, post, readOnly, remove } from "../../api";
import { duration, milliseconds } from "../../format";
import type { LiveView } from "../../types";
import { Help, Problem } from "../../ui";

const meanings: Record<string, string> = {
  edge: "head, protection and tail on this machine", wire: "round trip less what the cloud reports for itself", queue: "waiting in the cloud",
  compute: "the cloud's networks", total: "all of it, as the edge sees it",
};

export function Live({ run }: { run: string }) {
  const [view, setView] = useState<LiveView>();
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let over = false;
    const ask = () => {
      if (document.hidden) return;
      get<LiveView>(`split/${run}/live`).then((v) => { if (!over) { setView(v); setError(null); } }, () => undefined);
    };
    ask();
    const timer = setInterval(ask, 1000);
    return () => {
      over = true;
      clearInterval(timer);
    };
  }, [run]);
  if (!view) return null;
  const old = view.age === undefined || view.age > 4;
  const act = (action: Promise<LiveView>) => action.then((v) => { setView(v); setError(null); }, setError);
  return (
    <section class="card">
      <h2>With a real cloud, now <Help text="One picture, sent twice a second by an edge of its own over a socket; median and 95th percentile of the last minute." /></h2>
      {!view.running ? (
        readOnly.value ? <p class="muted">Start the studio with --cloud to see a running cloud's latencies.</p> : (
          <><p class="muted">The numbers above are of this process. A cloud in a process of its own answers over a socket.</p>
            <button type="button" onClick={() => act(post<LiveView>(`split/${run}/live`))}>Start a cloud for this run</button></>
        )
      ) : (
        <>
          {view.parts.length > 0 && (
            <table class={"attack-table live" + (old ? " old" : "")}>
              <thead><tr><th scope="col">Part</th><th scope="col" class="number">Median</th><th scope="col" class="number">95 %</th><th scope="col">What</th></tr></thead>
              <tbody>{view.parts.map((p) => <tr key={p.name}><th scope="row">{p.name}</th><td class="number">{milliseconds(p.p50)}</td><td class="number">{milliseconds(p.p95)}</td><td class="muted">{meanings[p.name]}</td></tr>)}</tbody>
            </table>
          )}
          <p class="muted" role="status">{view.parts.length === 0 ? view.problem ? "" : "Waiting for the first answer …" : old ? `No answer for ${duration(view.age)}: the last values.` : `${view.answers} answers in the last minute${view.own ? ", of a cloud that this studio started" : ""}.`}</p>
          {view.problem && <p class="note">{view.problem}</p>}
          {view.own && !readOnly.value && <button type="button" onClick={() => act(remove<LiveView>(`split/${run}/live`))}>End the cloud</button>}
        </>
      )}
      {error ? <Problem error={error} /> : null}
    </section>
  );
}
