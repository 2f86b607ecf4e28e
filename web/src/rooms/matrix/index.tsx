// SPDX-License-Identifier: Apache-2.0
// Every sweep and folder of runs as a table, and accuracy against what leaks.
import { useMemo, useState } from "preact/hooks";
import { param, setParams } from "../../address";
import { get, indexed, state } from "../../api";
import { bytes, scaled, when } from "../../format";
import { mainGroup } from "../../groups";
import { strengthHelp, valueHelp } from "../../text";
import type { Matrix } from "../../types";
import { Command, Controls, copy, dark, download, Empty, Field, Panel, Problem, Select, Skeleton, Slider, Tabs, useLoaded } from "../../ui";
import { Detail } from "./detail";
import { asCsv, asJson, asPng } from "./export";
import { HeatMap, Legend } from "./heatmap";
import { axes, type Axis, keep, type Record_, records, scatter, tables, values } from "./model";
import { Scatter } from "./scatter";

const axisTitle: Record<Axis, string> = { protection: "Protections", attack: "Attacks", split: "Splits", data: "Data sets" };
const unlimited = "";

// A record by what it says, so that it can stand in an address.
const idOf = (r: Record_) => [r.cell.run, r.cell.folder, r.cell.metric, r.cell.run ? "" : r.protection + r.setting].join("/");

export function MatrixRoom() {
  const groups = state.value!.groups;
  const wanted = param("group");
  const group = wanted ? groups.find((g) => g.id === wanted) : mainGroup(groups);
  const loaded = useLoaded(group ? `${group.id} ${indexed.value}` : "", (abort) => get<Matrix>(`matrix?group=${encodeURIComponent(group!.id)}`, abort));
  const [copied, setCopied] = useState(false);
  const matrix = loaded.value;
  const all = useMemo(() => (matrix ? records(matrix) : []), [matrix]);

  if (groups.length === 0) {
    return (
      <div class="padded"><Empty title="Nothing to compare yet" command="ensembler sweep table1-cifar10-small --out runs/table1">
        <p>A sweep trains networks with different protections and attacks each of them. Its table appears here while it runs.</p>
      </Empty></div>
    );
  }

  // Of disguised trainings the verdict is taken from rank-1.
  const usual = all.length > 0 && all.every((r) => r.row.disguised) ? "reidentified" : "ssim";
  const value = values.find((v) => v.name === param("value", usual)) ?? values[0];
  const axis = (name: string, otherwise: Axis): Axis => (axes.includes(param(name) as Axis) ? (param(name) as Axis) : otherwise);
  const rows = axis("rows", "protection"), columns = axis("cols", rows === "attack" ? "protection" : "attack");
  const filter = { data: param("data"), split: param("split"), level: param("level"), trusted: param("trusted") === "1" };
  const attack = param("attack");
  const view = param("view", "heat");
  const kept = all.filter((r) => keep(r, filter));
  const unique = (of: (r: Record_) => string) => [...new Set(all.map(of))].filter(Boolean);
  const choice = (list: string[], any: string): [string, string][] => [["", any], ...list.map((v): [string, string] => [v, v])];
  const shown = matrix ? tables(matrix, filter, rows, columns, attack) : [];
  const open = all.find((r) => idOf(r) === param("cell"));
  const pinned = all.find((r) => idOf(r) === param("pin"));
  const openCell = (r: Record_) => setParams({ cell: idOf(r) }, true);

  const change = param("x") === "change";
  const most = (of: (r: Record_) => number | undefined) => Math.max(0, ...all.map((r) => of(r) ?? 0));
  const mostFlops = most((r) => r.row.edge_flops), mostBytes = most((r) => (r.row.bytes_up ?? 0) + (r.row.bytes_down ?? 0));
  const budgetOf = (name: string, top: number) => {
    const v = Number(param(name, unlimited));
    return param(name) === "" || !Number.isFinite(v) ? top : v;
  };
  const budget = { ssim: budgetOf("most", value.high), flops: budgetOf("flops", mostFlops), bytes: budgetOf("bytes", mostBytes) };
  const dots = scatter(kept, value, attack, change, budget);
  const name = (group?.title ?? "matrix").replace(/[^\w-]+/g, "-").toLowerCase();
  const needsAttack = view === "scatter" || (rows !== "attack" && columns !== "attack");

  return (
    <div class={"room" + (open ? " with-panel" : "")}>
      <Controls>
        <Select
          label="Sweep or folder" value={group?.id ?? ""} onChange={(v) => setParams({ group: v, cell: "", pin: "", data: "", split: "", level: "", attack: "" }, true)}
          options={[...(group ? [] : [["", "choose one"] as [string, string]]), ...groups.map((g): [string, string] => [g.id, g.title + (g.cells ? ` (${g.runs ?? 0} of ${g.cells})` : ` (${g.runs ?? 0})`)])]}
        />
        <Tabs label="View" value={view} options={[["heat", "Heat map"], ["scatter", "Trade-off"]]} onChange={(v) => setParams({ view: v === "heat" ? "" : v })} />
        <Select label="Number" help={valueHelp[value.name]} value={value.name} options={values.map((v) => [v.name, v.title])} onChange={(v) => setParams({ value: v === usual ? "" : v, most: "" })} />
        {view === "heat" && (
          <div class="two">
            <Select label="Rows" value={rows} options={axes.map((a) => [a, axisTitle[a]])} onChange={(v) => setParams({ rows: v, cols: v === columns ? rows : columns })} />
            <Select label="Columns" value={columns} options={axes.map((a) => [a, axisTitle[a]])} onChange={(v) => setParams({ cols: v, rows: v === rows ? columns : rows })} />
          </div>
        )}
        {needsAttack && <Select label="Attack" value={attack} options={choice(unique((r) => r.attack), "the strongest of all")} onChange={(v) => setParams({ attack: v })} />}
        <Select label="Data set" value={filter.data} options={choice(unique((r) => r.data), "all")} onChange={(v) => setParams({ data: v })} />
        <Select label="Split" value={filter.split} options={choice(unique((r) => r.split), "all")} onChange={(v) => setParams({ split: v })} />
        <Select label="Attacker knows" value={filter.level} options={choice(unique((r) => r.level), "anything")} onChange={(v) => setParams({ level: v })} />
        <Field label="Only attacks that count" help={strengthHelp}>
          <input type="checkbox" checked={filter.trusted} onChange={(e) => setParams({ trusted: e.currentTarget.checked ? "1" : "" })} />
        </Field>
        {view === "scatter" && (
          <fieldset>
            <legend>Budget</legend>
            <Select label="Across" value={change ? "change" : ""} options={[["", "accuracy"], ["change", "change against no protection"]]} onChange={(v) => setParams({ x: v })} />
            <Slider label={`At most ${value.title}`} value={budget.ssim} min={value.low} max={value.high} step={(value.high - value.low) / 100} onChange={(v) => setParams({ most: v >= value.high ? "" : String(v) })} />
            {mostFlops > 0 && <Slider label="Edge computes" unit="FLOP" help={`The largest here: ${scaled(mostFlops, "FLOP")}`} value={budget.flops} min={0} max={mostFlops} step={mostFlops / 100} onChange={(v) => setParams({ flops: v >= mostFlops ? "" : String(Math.round(v)) })} />}
            {mostBytes > 0 && <Slider label="Sent and answered" unit="bytes" help={`The largest here: ${bytes(mostBytes)}`} value={budget.bytes} min={0} max={mostBytes} step={Math.max(1, mostBytes / 100)} onChange={(v) => setParams({ bytes: v >= mostBytes ? "" : String(Math.round(v)) })} />}
          </fieldset>
        )}
        <fieldset class="exports">
          <legend>Take it with you</legend>
          <div class="buttons">
            <button type="button" disabled={!kept.length} onClick={() => download(name + ".csv", new Blob([asCsv(kept)], { type: "text/csv" }))}>CSV</button>
            <button type="button" disabled={!kept.length} onClick={() => download(name + ".json", new Blob([asJson(kept)], { type: "application/json" }))}>JSON</button>
            <button type="button" disabled={!shown.length} onClick={() => asPng(shown[0], value, dark.value).then((b) => b && download(name + ".png", b))}>PNG</button>
            <button type="button" onClick={() => copy(location.href).then((ok) => { setCopied(ok); setTimeout(() => setCopied(false), 1500); })}>{copied ? "Copied" : "Copy link"}</button>
          </div>
        </fieldset>
      </Controls>
      <div class="content">
        <header class="room-head">
          <h1>{group?.title ?? "Matrix"}</h1>
          {group && <p class="muted">{group.cells ? `${group.runs ?? 0} of ${group.cells} trainings finished` : `${group.runs ?? 0} finished runs`}, last change {when(group.changed)}</p>}
        </header>
        {pinned && !open && (
          <p class="note bar">Open another cell to compare it with <strong>{pinned.protection}</strong>, attacked by <strong>{pinned.attack}</strong>.
            <button type="button" class="quiet" onClick={() => setParams({ pin: "" })}>Stop comparing</button></p>
        )}
        {!group && <Problem error={new Error("This sweep or folder is not here (any more): choose another one.")} />}
        {loaded.error ? <Problem error={loaded.error} /> : null}
        {loaded.loading && !matrix ? <Skeleton lines={8} /> : null}
        {matrix && all.length === 0 && shown.length === 0 && (
          <Empty title="No attack has a result here yet" command={`ensembler attack ${state.value!.runs_folder}/RUN`}><p>Finished runs appear with their accuracy; attack one to see what leaks.</p></Empty>
        )}
        {matrix && all.length > 0 && kept.length === 0 && <Empty title="Nothing passes these filters"><button type="button" onClick={() => setParams({ data: "", split: "", level: "", trusted: "" })}>Clear the filters</button></Empty>}
        {view === "heat" ? (
          <>
            {shown.length > 0 && <Legend value={value} />}
            {shown.map((t) => <HeatMap key={t.title} table={t} value={value} chosen={open} pinned={pinned} onOpen={openCell} />)}
          </>
        ) : matrix && <Scatter list={dots} value={value} change={change} published={matrix.published} onOpen={openCell} />}
        {matrix && matrix.skipped.length > 0 && (
          <details class="skipped"><summary>{matrix.skipped.length === 1 ? "One folder or file" : `${matrix.skipped.length} folders or files`} could not be read</summary>
            <ul class="plain">{matrix.skipped.slice(0, 200).map((s) => <li key={s.what}><strong>{s.what}</strong>: {s.reason}</li>)}</ul>
          </details>
        )}
        {group?.command && <details><summary>The command that makes this</summary><Command text={group.command} /></details>}
      </div>
      {open && (
        <Panel title={pinned && pinned !== open ? "Two cells" : "One cell"} onClose={() => setParams({ cell: "" })}>
          <div class="buttons">
            {pinned === open
              ? <button type="button" onClick={() => setParams({ pin: "" })}>Do not compare</button>
              : <button type="button" onClick={() => setParams({ pin: idOf(open), cell: "" })}>Compare with another cell</button>}
          </div>
          <Detail record={open} value={value} />
          {pinned && pinned !== open && <><hr /><h3>Compared with</h3><Detail record={pinned} value={value} /></>}
        </Panel>
      )}
    </div>
  );
}
