// SPDX-License-Identifier: Apache-2.0
// Figure 4 of "Demo: Image Disguising for Scalable GPU-accelerated Confidential Deep Learning" (CCS 2023): a method, pictures,
// what becomes of them, what attacks rebuild, a whole set, its upload.
import { useEffect, useRef, useState } from "preact/hooks";
import { param, setParams } from "../../address";
import { Failure, get, jobs, post, readOnly, remove } from "../../api";
import { bytes, fixed, percent } from "../../format";
import { disguiseText, firstAttack, sourceNames } from "../../text";
import type { DisguiseAttack, DisguiseChoices, DisguisePreview, Job, OwnPictures } from "../../types";
import { Command, Controls, Problem, Select, Skeleton, Tabs, useLoaded } from "../../ui";
import { AttackTable, Measured, Result } from "./attacks";
import { offFor, Setting } from "./controls";
import { isMain, settingsOf, short, tabsOf } from "./model";
import { Panes } from "./panes";
import { SetCard, useSets } from "./sets";

const visitor = Math.random().toString(36).slice(2);
const number = (name: string, otherwise: number) => {
  const v = Math.round(Number(param(name, String(otherwise))));
  return Number.isFinite(v) && v >= 0 ? v : otherwise;
};
// Results belong to a method with its settings and a data set, as long as the page lives.
const results = new Map<string, DisguiseAttack[]>();

function Own({ own, onChange }: { own?: OwnPictures; onChange: (o: OwnPictures) => void }) {
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const add = async (files: FileList | null) => {
    setBusy(true);
    setError(null);
    try {
      for (const file of files ?? []) onChange(await post<OwnPictures>("disguise/own", file));
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };
  if (readOnly.value) return <p class="muted">This studio is read-only and takes no pictures.</p>;
  return (
    <div class="own">
      <label class="field"><span class="label">Add pictures (PNG, JPEG, WebP)</span>
        <input type="file" accept="image/png,image/jpeg,image/webp" multiple disabled={busy} onChange={(e) => { void add(e.currentTarget.files); e.currentTarget.value = ""; }} /></label>
      <p class="muted">{own?.count ?? 0} of {own?.most ?? 256}, in this program's memory until you close the browser. The middle square becomes 64x64 pixels; nothing else of a file is kept.</p>
      {(own?.count ?? 0) > 0 && <button type="button" onClick={() => remove<OwnPictures>("disguise/own").then(onChange, setError)}>Remove them</button>}
      {error ? <Problem error={error} /> : null}
    </div>
  );
}

export function DisguiseRoom() {
  const loaded = useLoaded("choices", (abort) => get<DisguiseChoices>("disguise", abort));
  if (loaded.error) return <div class="padded"><Problem error={loaded.error} /></div>;
  if (!loaded.value) return <div class="padded"><Skeleton /></div>;
  return <Room choices={loaded.value} />;
}

function usePreview(body: object | null, key: string) {
  const [preview, setPreview] = useState<{ key: string; value: DisguisePreview }>();
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    if (!body) return;
    const abort = new AbortController();
    post<DisguisePreview>("disguise/preview", body, abort.signal).then(
      (value) => { if (!abort.signal.aborted) { setPreview({ key, value }); setError(null); } },
      (e) => { if (!abort.signal.aborted && !(e instanceof Failure && e.where === "preview")) { setPreview(undefined); setError(e); } },
    );
    return () => abort.abort();
  }, [key]);
  return { preview: preview?.value, fresh: preview?.key === key, error };
}

function Room({ choices }: { choices: DisguiseChoices }) {
  const tabs = tabsOf(choices);
  const method = choices.methods.find((m) => m.name === param("method")) ?? choices.methods.find((m) => m.name === "rmt") ?? choices.methods[0];
  const data = choices.data.find((d) => d.name === param("data")) ?? choices.data[0];
  const count = [1, 4, 16].includes(number("n", 4)) ? number("n", 4) : 4;
  const first = number("first", 0);
  const settings = settingsOf(method, choices.common, (name) => param(name));
  const wanted = { data: data.name, method: method.name, settings };
  const setting = JSON.stringify(wanted);
  const [own, setOwn] = useState<OwnPictures>();
  useEffect(() => {
    if (data.name === "own") get<OwnPictures>("disguise/own").then(setOwn, () => undefined);
  }, [data.name]);
  const ready = data.name === "own" ? (own?.count ?? 0) > 0 : !!data.present;
  const shown = { settings: wanted, first, count, visitor };
  const shownKey = ready ? `${setting} ${first} ${count} ${data.name === "own" ? own?.count : ""}` : "";
  const { preview, fresh, error } = usePreview(ready ? shown : null, shownKey);

  const attack = param("attack", firstAttack[method.name] ?? "look");
  const [rebuilt, setRebuilt] = useState<{ key: string; result: DisguiseAttack }>();
  const [busy, setBusy] = useState("");
  const [trouble, setTrouble] = useState<unknown>(null);
  const [point, setPoint] = useState<number | null>(null);
  const attacking = useRef<AbortController | null>(null);
  const [, redraw] = useState(0);
  const done = results.get(setting) ?? [];
  const info = preview?.attacks.find((a) => a.attack === attack);
  // The page has one attack at work: a new one takes its place, as it does in the server, whose refusal is of no interest then.
  // False if that happened.
  const run = async (name: string, again = false): Promise<boolean> => {
    const key = shownKey;
    attacking.current?.abort();
    const { signal } = (attacking.current = new AbortController());
    setParams({ attack: name });
    setBusy(name);
    setTrouble(null);
    try {
      const result = await post<DisguiseAttack>("disguise/attack", { shown, attack: name }, signal);
      const list = (results.get(setting) ?? []).filter((r) => r.attack !== name);
      results.set(setting, [...list, result]);
      if (!signal.aborted) {
        setRebuilt({ key, result });
        if (!again) setPoint(null);
      }
    } catch (failure) {
      if (!signal.aborted) setTrouble(failure);
    }
    if (signal.aborted) return false;
    setBusy("");
    redraw((n) => n + 1);
    return true;
  };
  useEffect(() => () => attacking.current?.abort(), []);
  const runAll = async () => {
    for (const a of preview?.attacks ?? []) if (a.quick && !a.reason && !(await run(a.attack, true))) return;
  };
  // Once somebody has attacked, what comes next is attacked too.
  const armed = rebuilt !== undefined || trouble !== null;
  useEffect(() => {
    if (armed && fresh && info?.quick && !info.reason && rebuilt?.key !== shownKey) void run(attack, true);
  }, [fresh, shownKey]);

  const total = preview?.total ?? 0;
  const step = (by: number) => {
    const next = Math.min(Math.max(0, first + by * count), Math.max(0, total - 1));
    setParams({ first: next ? String(next) : "" });
  };
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      const on = e.target as HTMLElement;
      if (on.closest("input, select, textarea, [role=tablist], .pane-frame, .scroll, .panel") || e.ctrlKey || e.metaKey || e.altKey) return;
      if (e.key === "ArrowRight") step(1);
      if (e.key === "ArrowLeft") step(-1);
    };
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  });
  const setValue = (name: string) => (v: string) => setParams({ [name]: v });
  const choose = (name: string) => setParams({ method: name === "rmt" ? "" : name, attack: "" });
  const tab = method.tab;
  const ofTab = choices.methods.filter((m) => m.tab === tab);
  const controls = tab === "DisguisedNets" ? ofTab.flatMap((m) => m.controls) : method.controls;
  const mains = controls.filter(isMain), more = [...method.controls.filter((c) => !isMain(c)), ...choices.common];
  const changed = settings.length > 0;

  const [sets, setSets] = useSets();
  const [failure, setFailure] = useState<unknown>(null);
  const disguise = () => post<Job>("disguise/sets", { settings: wanted }).then(
    (job) => { jobs.value = [job, ...jobs.value.filter((j) => j.id !== job.id)]; setFailure(null); }, setFailure);

  const result = rebuilt && rebuilt.key === shownKey ? rebuilt.result : undefined;
  const at = result ? Math.min(point ?? result.best ?? 0, result.points.length - 1) : 0;
  const p = result?.points[at];
  const title = `${method.title}${settings.map((s) => `, ${short(s.path).replace(/_/g, " ")} ${s.value}`).join("")}`;
  const alt = (what: string) => `${what} ${preview?.labels.join(", ") ?? ""}, ${title}`;
  return (
    <div class="room">
      <Controls>
        <Select label="Data set" value={data.name} options={choices.data.map((d) => [d.name, d.present ? d.title : `${d.title} (not here)`])} onChange={(v) => setParams({ data: v === choices.data[0].name ? "" : v, first: "" })} />
        {!data.present && data.command && <Command text={data.command} />}
        {data.name === "own" && <Own own={own} onChange={setOwn} />}
        {ofTab.length > 1 && <Select label="Method" value={method.name} options={ofTab.map((m) => [m.name, m.title])} onChange={choose} />}
        <p class="muted meaning">{method.meaning.replace(/`/g, "").replace(/^./, (c) => c.toUpperCase())}.</p>
        {mains.map((c) => <Setting key={c.path} control={c} value={offFor(method.name, c.path) ? "" : param(short(c.path))} set={setValue(short(c.path))} off={offFor(method.name, c.path)} />)}
        <details class="more"><summary>More</summary>
          {more.map((c) => <Setting key={c.path} control={c} value={param(short(c.path))} set={setValue(short(c.path))} />)}
        </details>
        {changed && <button type="button" class="quiet" onClick={() => setParams(Object.fromEntries(settings.map((s) => [short(s.path), ""])))}>Back to the usual settings</button>}
        <Select label="Under the pointer" value={param("zoom", "3")} options={[["1", "as it is"], ["2", "2 times larger"], ["3", "3 times larger"], ["4", "4 times larger"]]} onChange={(v) => setParams({ zoom: v === "3" ? "" : v })} />
      </Controls>
      <div class="content">
        <header class="room-head">
          <h1>Disguise</h1>
          <p class="muted">{disguiseText.broken}</p>
        </header>
        <Tabs label="Methods" value={tab} options={tabs.map((t) => [t, t])} onChange={(t) => choose(choices.methods.find((m) => m.tab === t)!.name)} />
        <div class="actions">
          <div class="stepper-inline">
            <button type="button" onClick={() => step(-1)} disabled={first <= 0}>Prev</button>
            <button type="button" onClick={() => step(1)} disabled={first + count >= total}>Next</button>
            <span class="muted">{total ? `${first + 1} to ${Math.min(first + count, total)} of ${total}` : ""}</span>
          </div>
          <Tabs label="Pictures at once" value={String(count)} options={[["1", "1"], ["4", "4"], ["16", "16"]]} onChange={(v) => setParams({ n: v === "4" ? "" : v })} />
          <div class="attack-pick">
            <label><span class="sr">Attack</span>
              <select value={attack} onChange={(e) => setParams({ attack: e.currentTarget.value })}>
                {choices.attacks.map((a) => <option key={a.name} value={a.name}>{`${a.level}: ${a.title}${sourceNames[a.name] ? ` (${sourceNames[a.name]})` : ""}`}</option>)}
              </select></label>
            <button type="button" class="primary" disabled={!fresh || !info?.quick || !!info?.reason} aria-busy={busy !== ""} onClick={() => void run(attack)}>Attack!</button>
            {!readOnly.value && <button type="button" class="primary" disabled={!ready || data.name === "own"} title={data.name === "own" ? "Your own pictures have no labels to train with" : "The whole data set, under this key"} onClick={disguise}>Disguise!</button>}
          </div>
        </div>
        {info?.reason ? <p class="muted">This attack does not apply: {info.reason}.</p> : info && !info.quick ? <p class="muted">This attack takes too long to be run here: <a href="#measured" onClick={(e) => { e.preventDefault(); document.getElementById("measured")?.scrollIntoView(); }}>what was measured before</a>.</p> : null}
        {failure ? <Problem error={failure} /> : null}
        {error ? <Problem error={error} /> : null}
        {data.name === "own" && !ready && <p class="note">Add pictures of your own among the controls: they stay in this program's memory and are never written.</p>}
        {!preview && ready && !error ? <Skeleton lines={6} /> : null}
        {preview && (
          <Panes
            zoom={Number(param("zoom", "3")) || 3}
            panes={[
              { title: "Original", id: preview.original, alt: alt("original"), note: <><span>{preview.labels.length > 4 ? `${preview.labels.slice(0, 4).join(", ")} …` : preview.labels.join(", ")}</span> <span class="muted">{preview.image_shape}, {bytes(preview.bytes_before)}</span></> },
              { title: "Disguised", id: preview.disguised, alt: alt("disguised"), note: <span class="muted">{preview.disguised_shape}{preview.tokens ? " codes, a line each" : ""}, {bytes(preview.bytes_after)}, {fixed(preview.microseconds, 0)} µs{preview.key_bytes ? `, key ${bytes(preview.key_bytes)}` : ", no key"}</span> },
              { title: "Rebuilt", id: p?.rebuilt, alt: p ? alt(`rebuilt by ${result!.attack}`) : busy ? "An attack is at work …" : "Choose an attack and press Attack!", note: p && <span class="muted">{result!.points.length > 1 ? `${p.name}: ` : ""}SSIM {fixed(p.shown_ssim, 3)}, rank-1 {percent(p.rank1?.mean)}</span> },
            ]}
          />
        )}
        {trouble ? <Problem error={trouble} /> : null}
        {result && <Result result={result} at={at} onPick={setPoint} />}
        {sets.map((s) => <SetCard key={s.id} set={s} onChange={setSets} />)}
        <AttackTable choices={choices} preview={preview} done={done} chosen={attack} busy={busy} fresh={fresh} onRun={(a) => void run(a)} />
        {preview && <p><button type="button" disabled={busy !== "" || !fresh} onClick={() => void runAll()}>Run every attack on these pictures</button></p>}
        <div id="measured"><Measured key={method.name} method={method.name} attack={attack} /></div>
        <p class="muted">{disguiseText.key}</p>
      </div>
    </div>
  );
}

