// SPDX-License-Identifier: Apache-2.0
// Cloud: what was uploaded, trainings on it beside the same on plain pictures, trainings of split inference; live curves, pause,
// resume and cancel; and the trainings of other days.
import { useEffect, useState } from "preact/hooks";
import { param, setParams } from "../../address";
import { get, indexed, jobs, pictureUrl, post, readOnly, remove, state } from "../../api";
import { bytes, duration, fixed, percent, when } from "../../format";
import type { CloudSet, CurveLine, Curves, Job, RunList, RunView, TrainingChoices } from "../../types";
import { Command, Controls, Empty, Field, Problem, Select, Skeleton, Tabs, useLoaded } from "../../ui";
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

// The cloud's training on an uploaded set.
function SetForm({ choices, set }: { choices: TrainingChoices; set?: CloudSet }) {
  const [form, setForm] = useState<Record<string, string>>({ architecture: "lenet", epochs: "6", rate: "0.05" });
  const [plain, setPlain] = useState(true);
  const [error, setError] = useState<unknown>(null);
  const patch = (p: Record<string, string>) => setForm({ ...form, ...p });
  if (!set) return <p class="muted">Nothing has been uploaded. <a href="#/disguise">Disguise a data set</a> first: its file is all that the cloud gets.</p>;
  const start = async (e: Event) => {
    e.preventDefault();
    const ask = (kind: string) => post<Job>("jobs", { kind, set: set.id, architecture: form.architecture, epochs: Number(form.epochs), rate: Number(form.rate) });
    try {
      const job = await ask("SET");
      const other = plain && set.plain ? await ask("PLAIN") : undefined;
      const started = other ? [job, other] : [job];
      jobs.value = [...started, ...jobs.value.filter((j) => !started.some((s) => s.id === j.id))];
      setError(null);
      setParams({ run: job.run ?? "", with: other?.run ?? "", set: set.id }, true);
    } catch (failure) {
      setError(failure);
    }
  };
  return (
    <form onSubmit={start}>
      <Select label="Uploaded set" value={set.id} options={choices.sets.map((s) => [s.id, s.title])} onChange={(v) => setParams({ set: v, run: "", with: "" })} />
      <Select label="Architecture" value={form.architecture} options={choices.classifiers.map((a) => [a, { lenet: "LeNet", resnet18: "ResNet-18, width 16", vgg16: "VGG-16, width 16", vit: "ViT" }[a] ?? a])} onChange={(v) => patch({ architecture: v, rate: v === "vit" ? "0.001" : "0.05" })} />
      <div class="two">
        <Number_ label="Epochs" name="epochs" form={form} set={patch} min={1} max={1000} />
        <Number_ label="Learning rate" name="rate" form={form} set={patch} min={0} max={10} step={0.0001} />
      </div>
      {set.plain && <Field label="Train on plain pictures too" help="The same network and training on the pictures themselves, which this machine has because it also plays the owner. A real cloud cannot do that."><input type="checkbox" checked={plain} onChange={(e) => setPlain(e.currentTarget.checked)} /></Field>}
      <button type="submit" class="primary">Train</button>
      {error ? <Problem error={error} /> : null}
    </form>
  );
}

// Everything that the cloud's operator has.
function Uploaded({ set }: { set: CloudSet }) {
  return (
    <section class="card">
      <h2>What the cloud has. {set.title}</h2>
      {set.picture && <img class="seen-picture" src={pictureUrl(set.picture)} alt="The first rows of the uploaded set, as the cloud sees them" />}
      <dl class="tiles">
        <div><dt>Rows</dt><dd>{fixed(set.rows, 0)} <span class="muted">and {fixed(set.test_rows ?? 0, 0)} to test</span></dd></div>
        <div><dt>Each</dt><dd>{set.shape}</dd></div>
        <div><dt>Files</dt><dd>{bytes(set.bytes)}</dd></div>
        <div><dt>Labels</dt><dd>{set.of_class.length} <span class="muted">without names, {fixed(Math.min(...set.of_class), 0)} to {fixed(Math.max(...set.of_class), 0)} rows each</span></dd></div>
        <div><dt>Key's id</dt><dd><code>{set.key_id.slice(0, 8)}</code> <span class="muted">a name, which says nothing of the key</span></dd></div>
      </dl>
      {set.marks.map((m) => <p key={m} class="problem" role="note">{m}</p>)}
      <details><summary>The method and its settings, which are public</summary><pre tabIndex={0}>{`method: ${set.method}\n${set.settings}`}</pre></details>
      <p class="muted">And every weight that it trains, and later every query. Not the key, not the pictures.</p>
    </section>
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

const jobOf = (id: string) => jobs.value.find((j) => j.run === id && j.title.startsWith("Train"));

// The curves of a run; while its job is at work asked for again every second. `known`: the server has seen its folder.
function useCurves(id: string, known: boolean): { lines: CurveLine[]; loading: boolean } {
  const active = jobOf(id)?.state === "running";
  const [tick, setTick] = useState(0);
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(() => { if (!document.hidden) setTick((t) => t + 1); }, 1000);
    return () => clearInterval(timer);
  }, [active, id]);
  const curves = useLoaded(known ? `${id} ${indexed.value} ${tick} ${active}` : "", (abort) => get<Curves>(`runs/${id}/curve?max=1000`, abort));
  const [last, setLast] = useState<{ id: string; curves: Curves }>();
  useEffect(() => { if (curves.value) setLast({ id, curves: curves.value }); }, [curves.value]);
  return { lines: last?.id === id ? last.curves.lines : [], loading: curves.loading };
}

// `beside`: the same training on plain pictures, or another one to compare with.
function Training({ id, known, beside, besideKnown, others }: { id: string; known: boolean; beside: string; besideKnown: boolean; others: [string, string][] }) {
  const job = jobOf(id), other = beside ? jobOf(beside) : undefined;
  const run = useLoaded(known ? `${id} ${indexed.value}` : "", (abort) => get<RunView>(`runs/${id}`, abort));
  const second = useLoaded(beside && besideKnown ? `${beside} ${indexed.value}` : "", (abort) => get<RunView>(`runs/${beside}`, abort));
  const own = useCurves(id, known), theirs = useCurves(beside, !!beside && besideKnown);
  const label = (view: RunView | undefined, otherwise: string) => view?.summary?.disguise?.method === "identity" || view?.entry.title === "Plain" || view?.entry.name.startsWith("plain-") ? "plain" : otherwise;
  const lines = beside ? [...own.lines.map((l) => ({ ...l, label: label(run.value, "this one") })), ...theirs.lines.map((l) => ({ ...l, label: label(second.value, "the other") }))] : own.lines;
  const curves = own;
  const names = [...new Set(lines.map((l) => l.name))].filter((n) => order.includes(n)).sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const summary = run.value?.summary;
  const disguised = summary?.disguise?.method ?? run.value?.entry.method;
  return (
    <>
      <header class="room-head">
        <h1>{run.value?.entry.title ?? job?.title ?? "Training"}</h1>
        <p class="muted">{run.value ? `${(run.value.entry.setting ?? "").replace(/^, /, "")}, ${run.value.entry.status}${summary?.accuracy !== undefined ? `, accuracy ${percent(summary.accuracy)}` : ""}` : "Its folder appears with its first step."}</p>
      </header>
      {job && <JobBar job={job} />}
      {other && other.state !== "done" && <JobBar job={other} />}
      {others.length > 0 && <div class="beside"><Select label="Beside it" value={beside} options={[["", "nothing"], ...others]} onChange={(v) => setParams({ with: v })} />
        {beside && second.value?.summary?.accuracy !== undefined && summary?.accuracy !== undefined && <p class="muted">Accuracy {percent(summary.accuracy)} here, {percent(second.value.summary.accuracy)} there.</p>}</div>}
      {run.error ? <Problem error={run.error} /> : !known && !job ? <Problem error={new Error("This run is not here (any more).")} /> : null}
      {names.map((n) => <Plot key={n} title={n === "accuracy" ? "Accuracy" : n === "loss" ? "Loss" : "Similarity of the heads"} lines={lines.filter((l) => l.name === n)} />)}
      {names.length === 0 && !curves.loading && <p class="muted">The first numbers come at the end of the first epoch.</p>}
      {run.value && (
        <section class="card">
          <h2>Who sees what</h2>
          {disguised ? (
            <dl class="seen">
              <div><dt>The owner keeps</dt><dd>the pictures, the key, and which row is which picture</dd></div>
              <div><dt>The cloud gets</dt><dd>disguised pictures{summary?.disguise?.disguised_bytes ? ` of ${bytes(summary.disguise.disguised_bytes)} each` : ""}, their labels, and the weights that it trains</dd></div>
              <div><dt>The attacker</dt><dd>is the cloud: <a href={`#/disguise?method=${disguised === "rmt" ? "" : disguised}`}>what it rebuilds</a></dd></div>
            </dl>
          ) : <dl class="seen">
            <div><dt>The edge keeps</dt><dd>images, the head, the tail, the noise, and which networks it reads</dd></div>
            <div><dt>The cloud gets</dt><dd>{summary?.nets && summary.nets > 1 ? `all ${summary.nets} bodies` : "the body"}, and of each image {summary?.bytes?.up ?? "?"} bytes of features</dd></div>
            <div><dt>The attacker</dt><dd>is the cloud, with images of its own: <a href={`#/matrix?group=${run.value.entry.group}`}>what it rebuilds</a></dd></div>
          </dl>}
          {run.value.command && <details><summary>The command</summary><Command text={run.value.command} /><p class="muted">{run.value.device}</p></details>}
          {summary && !disguised && <p><a href={`#/split?run=${id}`}>Send a picture through it</a></p>}
        </section>
      )}
    </>
  );
}

export function CloudRoom() {
  const uploads = jobs.value.filter((j) => j.title.startsWith("Disguise:") && j.state === "done").length;
  const choices = useLoaded(`choices ${uploads}`, (abort) => get<TrainingChoices>("cloud", abort));
  const runs = useLoaded(`runs ${indexed.value}`, (abort) => get<RunList>("runs?limit=100", abort));
  const list = runs.value?.runs ?? [];
  const sets = choices.value?.sets ?? [];
  const view = param("for", sets.length > 0 || param("set") ? "sets" : "split");
  const set = sets.find((s) => s.id === param("set")) ?? sets[0];
  const fresh = param("set") !== "" && param("run") === "";
  const wanted = param("run") || (fresh ? "" : jobs.value.find((j) => j.state === "running" && j.run)?.run || list[0]?.id || "");
  const beside = param("with");
  const there = (id: string) => list.some((r) => r.id === id);
  // What can be compared: disguised trainings with each other, and the rest.
  const kind = (id: string) => list.find((r) => r.id === id)?.method !== undefined;
  const others = list.filter((r) => r.id !== wanted && kind(r.id) === kind(wanted)).slice(0, 50).map((r): [string, string] => [r.id, `${r.title || r.name} (${r.name})`]);
  if (beside && !others.some(([id]) => id === beside)) others.unshift([beside, jobOf(beside)?.title ?? "the other one"]);
  return (
    <div class="room">
      <Controls>
        {readOnly.value ? <p class="muted">{state.value?.read_only_reason ?? "This studio is read-only: nothing can be started."}</p>
          : choices.value ? (
            <>
              <Tabs label="What is trained" value={view} options={[["sets", "Disguised set"], ["split", "Split inference"]]} onChange={(v) => setParams({ for: v })} />
              {view === "sets" ? <SetForm choices={choices.value} set={set} /> : <Form choices={choices.value} />}
            </>
          ) : <Skeleton />}
      </Controls>
      <div class="content">
        {wanted && runs.value ? <Training key={wanted} id={wanted} known={there(wanted)} beside={beside} besideKnown={there(beside)} others={others} /> : runs.loading && !fresh ? <Skeleton lines={6} /> : fresh || sets.length > 0 ? (
          <header class="room-head"><h1>Cloud</h1><p class="muted">A set has arrived. Choose a network on the left and train it.</p></header>
        ) : (
          <><h1 class="sr">Cloud</h1><Empty title="Nothing has been trained yet" command="ensembler train --config demo --out runs/mine"><p>Start a training on the left; its curves appear here while it runs.</p></Empty></>
        )}
        {set && view === "sets" && <Uploaded set={set} />}
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
