// SPDX-License-Identifier: Apache-2.0
// The only place that talks to the server.
import { signal } from "@preact/signals";
import type { Job, JobList, ServerEvent, State } from "./types";

export class Failure extends Error {
  constructor(readonly status: number, what: string, readonly where = "", readonly hint = "") {
    super(what);
  }
}

export type Session = "starting" | "open" | "closed" | "lost";
export const session = signal<Session>("starting");
export const state = signal<State | null>(null);
export const jobs = signal<Job[]>([]);
export const indexed = signal(0); // counts changes of the list of runs
export const readOnly = signal(false);

// Pages that `ensembler studio export` wrote find their answers in files beside them.
export const still = typeof document !== "undefined" && document.documentElement.hasAttribute("data-static");
function stillUrl(path: string): string {
  const [name, query] = path.split("?");
  const group = new URLSearchParams(query).get("group");
  return `api/v1/${name}${group ? "-" + group : ""}.json`;
}

async function request<T>(method: string, path: string, body?: unknown, abort?: AbortSignal): Promise<T> {
  const file = body instanceof Blob;
  let reply: Response;
  try {
    if (still && method !== "GET") throw new Failure(403, "These pages only show what was measured.");
    reply = await fetch(still ? stillUrl(path) : "/api/v1/" + path, {
      method,
      headers: body === undefined ? { "X-Ens": "1" } : { "X-Ens": "1", "Content-Type": file ? "application/octet-stream" : "application/json" },
      body: body === undefined ? undefined : file ? body : JSON.stringify(body),
      signal: abort,
    });
  } catch (error) {
    if (abort?.aborted || error instanceof Failure) throw error;
    if (session.value === "open") session.value = "lost";
    throw new Failure(0, "The studio does not answer.", "", "Is `ensembler studio` still running?");
  }
  if (reply.status === 401) session.value = "closed";
  else if (session.value === "lost") session.value = "open";
  if (reply.status === 204) return undefined as T;
  if (still && !reply.ok) throw new Failure(reply.status, "This is not among the exported files.");
  const text = await reply.text();
  let answer: { what?: string; where?: string; hint?: string };
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Failure(reply.status, `The studio answered with status ${reply.status}.`);
  }
  if (!reply.ok) throw new Failure(reply.status, answer.what ?? "refused", answer.where, answer.hint);
  return answer as T;
}

export const get = <T>(path: string, abort?: AbortSignal) => request<T>("GET", path, undefined, abort);
export const post = <T>(path: string, body: unknown = {}, abort?: AbortSignal) => request<T>("POST", path, body, abort);
export const remove = <T>(path: string) => request<T>("DELETE", path);
export const pictureUrl = (id: string) => (still ? `api/v1/pictures/${id}.png` : `/api/v1/pictures/${id}`);

async function refresh(): Promise<void> {
  const [s, list] = await Promise.all([get<State>("state"), get<JobList>("jobs")]);
  state.value = s;
  jobs.value = list.jobs;
  readOnly.value = s.read_only;
}

// ---- events: one stream a tab, closed while the tab is hidden, resumed after the last event

let stream: EventSource | null = null;
let lastId = "";
let refreshing = 0;

function onEvent(event: MessageEvent<string>): void {
  lastId = event.lastEventId || lastId;
  const data = JSON.parse(event.data) as ServerEvent;
  if (data.job) {
    const job = data.job;
    const known = jobs.value.some((j) => j.id === job.id);
    jobs.value = known ? jobs.value.map((j) => (j.id === job.id ? job : j)) : [job, ...jobs.value];
  }
  if (data.indexed !== undefined) {
    clearTimeout(refreshing);
    refreshing = setTimeout(() => {
      get<State>("state").then((s) => {
        state.value = s;
        indexed.value++;
      }, () => undefined);
    }, 200) as unknown as number;
  }
}

function listen(): void {
  if (stream || document.hidden || session.value === "closed") return;
  stream = new EventSource("/api/v1/events" + (lastId ? "?after=" + encodeURIComponent(lastId) : ""));
  stream.onmessage = onEvent;
  stream.addEventListener("hello", (e) => {
    lastId = (e as MessageEvent).lastEventId || lastId;
    if (session.value === "lost") session.value = "open";
  });
  stream.addEventListener("reset", () => {
    refresh().then(() => indexed.value++, () => undefined);
  });
  stream.onerror = () => {
    if (session.value === "open") session.value = "lost";
    // A stream that the browser gave up is opened anew.
    if (stream?.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(() => refresh().then(listen, () => setTimeout(listen, 3000)), 2000);
    }
  };
}

export async function signIn(token: string): Promise<void> {
  await post("session", { token });
  session.value = "open";
  await refresh();
  listen();
}

export async function start(): Promise<void> {
  if (still) {
    await refresh();
    session.value = "open";
    return;
  }
  if (typeof EventSource === "undefined") throw new Failure(0, "This browser is too old: it has no EventSource.");
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
    } else if (session.value !== "starting") {
      listen();
    }
  });
  const token = /^#token=([0-9a-f]+)$/.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(null, "", "#/"); // out of the address before anything else
    try {
      return await signIn(token);
    } catch (error) {
      // The token of an old address: this browser may still have a cookie that holds.
      if (!(error instanceof Failure) || error.status !== 403) throw error;
    }
  }
  await refresh();
  session.value = "open";
  listen();
}
