// SPDX-License-Identifier: Apache-2.0
// Trainings: start one, watch its curves, pause, resume and cancel it; and those of other days.
import { useEffect, useState } from "preact/hooks";
import { param, setParams } from "../../address";
import { get, indexed, jobs, post, readOnly, remove, state } from "../../api";
import { duration, percent, when } from "../../format";
import type { Curves, Job, RunList, RunView, TrainingChoices } from "../../types";
import { Command, Controls, Empty, Field, Problem, Select, Skeleton, useLoaded } from "../../ui";
import { Plot } from "./plot";

const order = ["accuracy", "loss", "similarity"];

function Number_({ label, name, form, set, min, max, step = 1 }: { label: string; name: string; form: Record<string, string>; set: (patch: Record<string, string>) => void; min: number; max: number; step?: number }) {
  return <Field label={label}><input type="number" min={min} max={max} step={step} value={form[name]} onChange={(e) => set({ [name]: e.currentTarget.value })} /></Field>;
}

// What is to be trained. The server's own rules say what is possible.
function Form({ choices }: { choices: TrainingChoices }) {
  const [form, setForm] = useState<Record<string, string>>({ data: "shapes", protection: "none", architecture: "resnet18", width: "8", epochs: "8", images: "3000", head: "1", tail: "1", nets: "3", selected: "2", sigma: "0.1", rate: "0.05" });
  const [error, setError] = useState<unknown>(null);
  const set = (patch: Record<string, string>) => setForm({ ...form, ...patch });
  const protection = choices.protections.find((p) => p.kind === form.protection);
  const data = choices.data.find((d) => d.name === form.data);
  const start = async (e: Event) => {
    e.preventDefault();
    const n = (name: string) => Number(form[name]);
    try {
      const job = await post<Job>("jobs", {
        kind: "TRAIN", data: form.data, protection: form.protection, architecture: form.architecture, width: n("width"), epochs: n("epochs"), images: n("images"),
        head: n("head"), tail: n("tail"), rate: n("rate"), ...(protection?.several_nets ? { nets: n("nets") } : {}), ...(protection?.selects ? { selected: n("selected") } : {}), ...(protection?.noise ? { sigma: n("sigma") } : {}),
      });
      jobs.value = [job, ...jobs.value.filter((j) => j.id !== job.id)];
      setError(null);
      setParams({ run: job.run ?? "" }, true);
    } catch (failure) {
      setError(failure);
    }
  };
  return (
    <form onSubmit={start}>
      <Select label="Data set" value={form.data} options={choices.data.map((d) => [d.name, d.present ? d.name : `${d.name} (not here)`])} onChange={(v) => set({ data: v })} />
      {data && !data.present && data.command && <Command text={data.command} />}
      <Select label="Protection" help={protection?.meaning.replace(/`/g, "")} value={form.protection} options={choices.protections.map((p) => [p.kind, p.title])} onChange={(v) => set({ protection: v })} />
      <div class="two">
        <Select label="Architecture" value={form.architecture} options={choices.architectures.map((a) => [a, a])} onChange={(v) => set({ architecture: v })} />
        <Number_ label="Width" name="width" form={form} set={set} min={1} max={512} />
        <Number_ label="Epochs" name="epochs" form={form} set={set} min={1} max={1000} />
        <Number_ label="Images (0: all)" name="images" form={form} set={set} min={0} max={1000000} />
        <Number_ label="h, cells" name="head" form={form} set={set} min={1} max={20} />
        <Number_ label="t, cells" name="tail" form={form} set={set} min={1} max={20} />
        <Number_ label="Learning rate" name="rate" form={form} set={set} min={0} max={10} step={0.001} />
        {protection?.noise && <Number_ label="σ, noise" name="sigma" form={form} set={set} min={0} max={100} step={0.01} />}
        {protection?.several_nets && <Number_ label="N, networks" name="nets" form={form} set={set} min={1} max={100} />}
        {protection?.selects && <Number_ label="P, selected" name="selected" form={form} set={set} min={1} max={100} />}
      </div>
      <button type="submit" class="primary">Train</button>
      {error ? <Problem error={error} /> : null}
    </form>
  );
}

function JobBar({ job }: { job: Job }) {
  const [error, setError] = useState<unknown>(null);
  const p = job.progress;
  const act = (action: Promise<Job>) => action.then((j) => { jobs.value = jobs.value.map((o) => (o.id === j.id ? j : o)); setError(null); }, setError);
  const is = (words: string) => !readOnly.value && words.split(" ").includes(job.state);
  return (
    <div class="card">
      <div class="job-head"><strong>{job.title}</strong><span class={"state " + job.state}>{job.state}</span></div>
      {job.state === "running" && <progress aria-label={job.title} value={p?.total ? (p.done ?? 0) / p.total : undefined} max={1} />}
      <p class="muted">{job.state === "running" && p ? [p.label, p.note, p.left !== undefined ? `${duration(p.left)} left` : ""].filter(Boolean).join(" · ") : job.reason}</p>
      <div class="buttons">
        {is("running queued") && <button type="button" onClick={() => act(post(`jobs/${job.id}/pause`))}>Pause</button>}
        {is("paused interrupted failed cancelled") && <button type="button" onClick={() => act(post(`jobs/${job.id}/resume`))}>Resume</button>}
        {is("running queued paused interrupted") && <button type="button" onClick={() => act(remove(`jobs/${job.id}`))}>Cancel</button>}
      </div>
      {error ? <Problem error={error} /> : null}
    </div>
  );
}

// `known`: the server has seen its folder.
function Training({ id, known }: { id: string; known: boolean }) {
  const job = jobs.value.find((j) => j.run === id && j.title.startsWith("Train"));
  const active = job?.state === "running";
  // A point a second at most while it runs.
  const [tick, setTick] = useState(0);
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(() => { if (!document.hidden) setTick((t) => t + 1); }, 1000);
    return () => clearInterval(timer);
  }, [active, id]);
  const run = useLoaded(known ? `${id} ${indexed.value}` : "", (abort) => get<RunView>(`runs/${id}`, abort));
  const curves = useLoaded(known ? `${id} ${indexed.value} ${tick} ${active}` : "", (abort) => get<Curves>(`runs/${id}/curve?max=1000`, abort));
  const [last, setLast] = useState<{ id: string; curves: Curves }>();
  useEffect(() => { if (curves.value) setLast({ id, curves: curves.value }); }, [curves.value]);
  const lines = last?.id === id ? last.curves.lines : [];
  const names = [...new Set(lines.map((l) => l.name))].filter((n) => order.includes(n)).sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const summary = run.value?.summary;
  return (
    <>
      <header class="room-head">
        <h1>{run.value?.entry.title ?? job?.title ?? "Training"}</h1>
        <p class="muted">{run.value ? `${run.value.entry.setting}, ${run.value.entry.status}${summary?.accuracy !== undefined ? `, accuracy ${percent(summary.accuracy)}` : ""}` : "Its folder appears with its first step."}</p>
      </header>
      {job && <JobBar job={job} />}
      {run.error ? <Problem error={run.error} /> : !known && !job ? <Problem error={new Error("This run is not here (any more).")} /> : null}
      {names.map((n) => <Plot key={n} title={n === "accuracy" ? "Accuracy" : n === "loss" ? "Loss" : "Similarity of the heads"} lines={lines.filter((l) => l.name === n)} />)}
      {names.length === 0 && !curves.loading && <p class="muted">The first numbers come at the end of the first epoch.</p>}
      {run.value && (
        <section class="card">
          <h2>Who sees what</h2>
          <dl class="seen">
            <div><dt>The edge keeps</dt><dd>images, the head, the tail, the noise, and which networks it reads</dd></div>
            <div><dt>The cloud gets</dt><dd>{summary?.nets && summary.nets > 1 ? `all ${summary.nets} bodies` : "the body"}, and of each image {summary?.bytes?.up ?? "?"} bytes of features</dd></div>
            <div><dt>The attacker</dt><dd>is the cloud, with images of its own: <a href={`#/matrix?group=${run.value.entry.group}`}>what it rebuilds</a></dd></div>
          </dl>
          {run.value.command && <details><summary>The command</summary><Command text={run.value.command} /><p class="muted">{run.value.device}</p></details>}
          {summary && <p><a href={`#/split?run=${id}`}>Send a picture through it</a></p>}
        </section>
      )}
    </>
  );
}

export function CloudRoom() {
  const choices = useLoaded("choices", (abort) => get<TrainingChoices>("cloud", abort));
  const runs = useLoaded(`runs ${indexed.value}`, (abort) => get<RunList>("runs?limit=100", abort));
  const list = runs.value?.runs ?? [];
  const wanted = param("run") || jobs.value.find((j) => j.state === "running" && j.run)?.run || list[0]?.id || "";
  return (
    <div class="room">
      <Controls>
        {readOnly.value ? <p class="muted">{state.value?.read_only_reason ?? "This studio is read-only: nothing can be started."}</p>
          : choices.value ? <Form choices={choices.value} /> : <Skeleton />}
      </Controls>
      <div class="content">
        {wanted && runs.value ? <Training key={wanted} id={wanted} known={list.some((r) => r.id === wanted)} /> : runs.loading ? <Skeleton lines={6} /> : (
          <><h1 class="sr">Trainings</h1><Empty title="Nothing has been trained yet" command="ensembler train --config demo --out runs/mine"><p>Start a training on the left; its curves appear here while it runs.</p></Empty></>
        )}
        {list.length > 0 && (
          <section class="card">
            <h2>All trainings</h2>
            <ul class="trainings">{list.map((r) => (
              <li key={r.id}><a href={`#/cloud?run=${r.id}`} aria-current={r.id === wanted ? "true" : undefined}>
                <span>{r.title || r.name}</span><span class={"state " + r.status}>{r.status}</span><span>{r.accuracy === undefined ? "" : percent(r.accuracy)}</span>
                <small>{r.name}, {r.setting || r.reason}, {when(r.changed)}</small>
              </a></li>
            ))}</ul>
            {(runs.value?.total ?? 0) > list.length && <p class="muted">The newest {list.length} of {runs.value!.total}.</p>}
          </section>
        )}
      </div>
    </div>
  );
}
