// SPDX-License-Identifier: Apache-2.0
import "uplot/dist/uPlot.min.css";
import "./styles.css";
import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { address } from "./address";
import { Failure, get, jobs, post, readOnly, remove, session, signIn, start, state } from "./api";
import { duration, when } from "./format";
import { rooms } from "./rooms";
import { keys } from "./text";
import { Offer, startTour, Tour } from "./tour";
import type { Job } from "./types";
import { Command, Panel, Problem, setTheme, theme } from "./ui";

const failed = signal<unknown>(null);
const showJobs = signal(false);
const showKeys = signal(false);

function SignIn() {
  const [token, setToken] = useState("");
  const [error, setError] = useState<unknown>(null);
  return (
    <main class="narrow">
      <h1>Sign in</h1>
      <p>Open the address that <code>ensembler studio</code> printed, or paste its token here.</p>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          signIn(token.trim().replace(/^.*token=/, "")).catch(setError);
        }}
      >
        <div class="field">
          <label><span class="label">Token</span>
            <input type="password" autocomplete="off" value={token} onInput={(e) => setToken(e.currentTarget.value)} />
          </label>
        </div>
        <button type="submit" class="primary">Sign in</button>
      </form>
      {error ? <Problem error={error} /> : null}
    </main>
  );
}

function act(action: Promise<Job>): void {
  action.then((job) => {
    jobs.value = jobs.value.map((j) => (j.id === job.id ? job : j));
  }, (error) => { failed.value = error; });
}

export function progressText(job: Job): string {
  const p = job.progress;
  if (job.state !== "running" || !p) return "";
  const share = p.total ? `${Math.floor((100 * (p.done ?? 0)) / p.total)} %` : "";
  const left = p.left !== undefined ? `${duration(p.left)} left` : "";
  return [p.label, share, left].filter(Boolean).join(" · ");
}

function JobRow({ job }: { job: Job }) {
  const [log, setLog] = useState<string[] | null>(null);
  const share = job.progress?.total ? (job.progress.done ?? 0) / job.progress.total : undefined;
  const can = (what: string) => !readOnly.value && what.split(" ").includes(job.state);
  return (
    <li class="job">
      <div class="job-head"><strong>{job.title}</strong><span class={"state " + job.state}>{job.state}</span></div>
      {job.state === "running" && (
        <progress aria-label={job.title} value={share} max={1} />
      )}
      <p class="muted">{progressText(job) || job.reason || (job.ended ? `ended ${when(job.ended)}` : when(job.created))}</p>
      {job.progress?.note && job.state === "running" && <p class="muted">{job.progress.note}</p>}
      <div class="buttons">
        {can("running queued") && <button type="button" onClick={() => act(post(`jobs/${job.id}/pause`))}>Pause</button>}
        {can("paused interrupted failed cancelled") &&
          <button type="button" onClick={() => act(post(`jobs/${job.id}/resume`))}>Resume</button>}
        {can("running queued paused interrupted") &&
          <button type="button" onClick={() => act(remove(`jobs/${job.id}`))}>Cancel</button>}
        <button
          type="button" class="quiet" aria-expanded={log !== null}
          onClick={() => log ? setLog(null) : get<Job>(`jobs/${job.id}`).then((j) => setLog(j.log ?? []), (e) => { failed.value = e; })}
        >{log ? "Hide log" : "Log"}</button>
      </div>
      {log && <pre class="log" tabIndex={0}>{log.join("\n") || "nothing yet"}</pre>}
      {log && job.command && <Command text={job.command} />}
    </li>
  );
}

function JobsPanel() {
  return (
    <Panel title="Jobs" onClose={() => { showJobs.value = false; }}>
      {readOnly.value && <p class="muted">{state.value?.read_only_reason ?? "This studio is read-only: nothing can be started."}</p>}
      {jobs.value.length === 0 ? <p class="muted">Nothing has been started here.</p> : (
        <ul class="jobs">{jobs.value.map((job) => <JobRow key={job.id} job={job} />)}</ul>
      )}
    </Panel>
  );
}

function JobsButton() {
  const active = jobs.value.filter((j) => j.state === "running" || j.state === "queued");
  const running = active.find((j) => j.state === "running");
  const p = running?.progress;
  const share = p?.total ? ` ${Math.floor((100 * (p.done ?? 0)) / p.total)} %` : "";
  const text = running ? `${running.title}${share}` : active.length ? `${active.length} queued` : "Jobs";
  return (
    <button
      type="button" class={"jobs-button" + (running ? " busy" : "")} aria-expanded={showJobs.value}
      onClick={() => { showJobs.value = !showJobs.value; }}
    ><span class="dot" aria-hidden="true" /><span class="text">{text}</span></button>
  );
}

function Header() {
  const here = address.value.room;
  const link = (name: string, title: string) => (
    <a key={name} href={"#/" + name} aria-current={here === name ? "page" : undefined} >{title.split(" ")[0]}<span class="rest">{title.replace(/^\S+/, "")}</span></a>
  );
  const available = rooms.filter((r) => !r.server || state.value?.rooms.some((s) => s.name === r.name));
  const next = { system: "light", light: "dark", dark: "system" } as const;
  const colours = { system: "Auto", light: "Light", dark: "Dark" }[theme.value];
  return (
    <header class="top">
      <a class="brand" href="#/"><span class="mark" aria-hidden="true" />Ensembler <span>studio</span></a>
      <nav aria-label="Rooms">{available.map((r) => link(r.name, r.title))}</nav>
      <div class="tools">
        <JobsButton />
        <button
          type="button" class="quiet" title="Colours: system, light, dark"
          aria-label={`${colours}: colours`} onClick={() => setTheme(next[theme.value])}
        >{colours}</button>
        <button type="button" class="quiet" aria-label="? Keys" onClick={() => { showKeys.value = !showKeys.value; }}>?</button>
      </div>
    </header>
  );
}

function KeysPanel() {
  return (
    <Panel title="Keys" onClose={() => { showKeys.value = false; }}>
      <dl class="keys">{keys.map(([key, what]) => <><dt><kbd>{key}</kbd></dt><dd>{what}</dd></>)}</dl>
      <p><button type="button" onClick={() => { showKeys.value = false; startTour(); }}>Take the tour</button></p>
    </Panel>
  );
}

function Live() {
  const running = jobs.value.find((j) => j.state === "running");
  const p = running?.progress;
  const step = p?.total ? Math.floor((10 * (p.done ?? 0)) / p.total) * 10 : 0;
  const ended = jobs.value.find((j) => j.ended && Date.now() / 1000 - j.ended < 5);
  return (
    <div class="sr" aria-live="polite">
      {running ? `${running.title}: ${step} %` : ended ? `${ended.title}: ${ended.state}` : ""}
    </div>
  );
}

function App() {
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.target instanceof HTMLInputElement || e.target instanceof HTMLSelectElement || e.ctrlKey || e.metaKey || e.altKey) return;
      const available = rooms.filter((r) => !r.server || state.value?.rooms.some((s) => s.name === r.name));
      const room = available[Number(e.key) - 1];
      if (e.key === "?") showKeys.value = !showKeys.value;
      else if (room) location.hash = "#/" + room.name;
    };
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, []);
  if (session.value === "closed") return <SignIn />;
  if (failed.value && !state.value) return <main class="narrow"><Problem error={failed.value} /></main>;
  if (!state.value) return <p class="boot">Loading the studio …</p>;
  const room = rooms.find((r) => r.name === address.value.room) ?? rooms[0];
  document.title = room.title + " · Ensembler studio";
  const Page = room.page;
  return (
    <>
      <a class="skip" href="#content" onClick={(e) => { e.preventDefault(); document.getElementById("content")?.focus(); }}>Skip to content</a>
      <Header />
      {session.value === "lost" && <p class="banner" role="status">The studio does not answer. What you see is the last it said; it is asked again every few seconds.</p>}
      {failed.value ? <div class="banner"><Problem error={failed.value} /><button type="button" class="quiet" onClick={() => { failed.value = null; }}>Dismiss</button></div> : null}
      <main id="content" tabIndex={-1}><Offer /><Page /></main>
      <Tour />
      {showJobs.value && <JobsPanel />}
      {showKeys.value && <KeysPanel />}
      <Live />
    </>
  );
}

start().catch((error) => {
  if (error instanceof Failure && error.status === 401) return;
  failed.value = error;
});
const root = document.getElementById("app")!;
root.textContent = "";
render(<App />, root);
