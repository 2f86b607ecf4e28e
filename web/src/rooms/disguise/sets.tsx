// SPDX-License-Identifier: Apache-2.0
// Whole sets: what disguising one cost, exactly what leaves, and the upload.
import { useEffect, useState } from "preact/hooks";
import { get, jobs, post, readOnly, remove } from "../../api";
import { bytes, fixed } from "../../format";
import type { OwnerSet, OwnerSets } from "../../types";
import { Help, Problem } from "../../ui";

export function useSets(): [OwnerSet[], (sets: OwnerSets) => void] {
  const [sets, setSets] = useState<OwnerSet[]>([]);
  const ended = jobs.value.filter((j) => j.title.startsWith("Disguise:")).map((j) => j.id + j.state).join();
  useEffect(() => {
    get<OwnerSets>("disguise/sets").then((s) => setSets(s.sets), () => undefined);
  }, [ended]);
  return [sets, (s) => setSets(s.sets)];
}

function Status({ set }: { set: OwnerSet }) {
  const files = set.report!.files;
  const sum = (of: (f: (typeof files)[0]) => number) => files.reduce((a, f) => a + of(f), 0);
  const rows = sum((f) => f.rows), seconds = sum((f) => f.seconds), before = sum((f) => f.bytes_before), after = sum((f) => f.bytes_after);
  return (
    <dl class="tiles">
      <div><dt>Images</dt><dd>{fixed(rows, 0)}</dd></div>
      <div><dt>Took</dt><dd>{fixed(seconds, 2)} s</dd></div>
      <div><dt>An image</dt><dd>{fixed((1e6 * seconds) / rows, 0)} µs</dd></div>
      <div><dt>Before, after</dt><dd>{bytes(before)}, {bytes(after)}</dd></div>
      <div><dt>Key <Help text="Of the master key and what follows from it. It stays in the owner's folder, which no page can ask for." /></dt><dd>{bytes(set.report!.key_bytes)}</dd></div>
      <div><dt>Cores</dt><dd>{set.report!.cores}</dd></div>
    </dl>
  );
}

export function SetCard({ set, onChange }: { set: OwnerSet; onChange: (sets: OwnerSets) => void }) {
  const [error, setError] = useState<unknown>(null);
  const job = jobs.value.find((j) => j.id === set.job);
  const act = (action: Promise<OwnerSets>) => action.then((s) => { setError(null); onChange(s); }, setError);
  const p = job?.progress;
  return (
    <section class="card set-card">
      <div class="job-head"><h2>{set.title}</h2><span class={"state " + (set.uploaded ? "done" : job?.state ?? "")}>{set.uploaded ? "uploaded" : set.report ? "disguised" : job?.state ?? "unfinished"}</span></div>
      {job?.state === "running" && <progress aria-label={set.title} value={p?.total ? (p.done ?? 0) / p.total : undefined} max={1} />}
      {!set.report && job?.state === "failed" && <p class="problem" role="note">{job.reason}</p>}
      {set.report && <Status set={set} />}
      {set.leaves.length > 0 && (
        <details>
          <summary>Exactly what leaves: {set.leaves.length} items, {bytes(set.leaves.reduce((a, l) => a + (l.bytes ?? 0), 0))}</summary>
          <div class="scroll" tabIndex={0} role="region" aria-label="What leaves">
            <table class="attack-table"><thead><tr><th scope="col">Part of the file</th><th scope="col">Shape</th><th scope="col">Type</th><th scope="col" class="number">Bytes</th><th scope="col">What</th></tr></thead>
              <tbody>{set.leaves.map((l) => <tr key={l.name}><th scope="row">{l.name}</th><td>{l.shape}</td><td>{l.type}</td><td class="number">{bytes(l.bytes)}</td><td>{l.what}</td></tr>)}</tbody></table>
          </div>
          <p class="muted">Not among it: the key, the order of the images, their names.</p>
        </details>
      )}
      {error ? <Problem error={error} /> : null}
      <div class="buttons">
        {set.report && !set.uploaded && !readOnly.value && <button type="button" class="primary" onClick={() => act(post(`disguise/sets/${set.id}/upload`))}>Upload</button>}
        {set.uploaded && <a class="button" href={`#/cloud?set=${set.id}`}>Train on it in the cloud</a>}
        {!readOnly.value && job?.state !== "running" && job?.state !== "queued" && <button type="button" class="quiet" onClick={() => act(remove(`disguise/sets/${set.id}`))}>Delete</button>}
      </div>
    </section>
  );
}

