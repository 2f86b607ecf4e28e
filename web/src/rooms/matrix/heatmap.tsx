// SPDX-License-Identifier: Apache-2.0
import { useRef } from "preact/hooks";
import { fill } from "../../colour";
import { bytes, fixed, interval, percent, points } from "../../format";
import { strengthHelp } from "../../text";
import { dark, Help } from "../../ui";
import { key, type Record_, type Table, type Value, worst } from "./model";

export function share(value: Value, v: number): number {
  return (v - value.low) / (value.high - value.low);
}

export function HeatMap({ table, value, chosen, pinned, onOpen }: {
  table: Table; value: Value; chosen?: Record_; pinned?: Record_; onOpen: (r: Record_) => void;
}) {
  const isDark = dark.value;
  const body = useRef<HTMLTableSectionElement>(null);
  const facts = table.rowOf.size > 0;
  const move = (e: KeyboardEvent) => {
    const step: Record<string, [number, number]> = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const by = step[e.key];
    const at = (e.target as HTMLElement).closest<HTMLElement>("button[data-row]");
    if (!by || !at || !body.current) return;
    e.preventDefault();
    let row = Number(at.dataset.row), column = Number(at.dataset.column);
    for (;;) {
      row += by[0];
      column += by[1];
      if (row < 0 || column < 0 || row >= table.rows.length || column >= table.columns.length) return;
      const next = body.current.querySelector<HTMLElement>(`button[data-row="${row}"][data-column="${column}"]`);
      if (next) {
        next.focus();
        return;
      }
    }
  };
  return (
    <section class="heat">
      <h2>{table.title}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={table.title}>
        <table>
          <thead>
            <tr>
              <th scope="col" class="corner">{value.title}</th>
              {facts && <th scope="col" class="fact">Accuracy</th>}
              {facts && <th scope="col" class="fact sent">Sent</th>}
              {table.columns.map((c) => (
                <th key={c} scope="col"><span>{c}</span>{table.levels.get(c) && <small>{table.levels.get(c)}</small>}</th>
              ))}
            </tr>
          </thead>
          <tbody ref={body} onKeyDown={move}>
            {table.rows.map((r, i) => {
              const row = table.rowOf.get(r);
              return (
                <tr key={r}>
                  <th scope="row">{r || "–"}</th>
                  {facts && (
                    <td class="fact">
                      {row?.status ? <span class="muted" title={row.reason}>{row.status}</span> : <>{percent(row?.accuracy?.mean)}{row?.change?.mean !== undefined && <small>{points(row.change.mean)}</small>}</>}
                    </td>
                  )}
                  {facts && <td class="fact sent">{row?.status ? "" : bytes(row?.bytes_up)}</td>}
                  {table.columns.map((c, j) => {
                    const list = table.at.get(key(r, c));
                    const record = worst(list, value);
                    if (!record) return <td key={c} class="none"><span class="sr">not measured</span></td>;
                    const v = value.of(record.cell);
                    const open = () => onOpen(record);
                    if (v === undefined) {
                      const word = record.cell.error ? "failed" : record.cell.pointless ? "n/a" : "–";
                      return <td key={c} class="none"><button type="button" class="cell empty" data-row={i} data-column={j} onClick={open} aria-label={`${r}, ${c}: ${word}`}>{word}</button></td>;
                    }
                    const { background, text } = fill(share(value, v), isDark);
                    const trusted = record.cell.trusted;
                    const label = `${r}, ${c}: ${value.title} ${interval(value.range?.(record.cell) ?? { mean: v }, value.digits)}, ${record.cell.strength || ""}`;
                    return (
                      <td key={c}>
                        <button
                          type="button" data-row={i} data-column={j} onClick={open} aria-label={label} title={label}
                          class={"cell" + (trusted ? "" : " weak") + (record === chosen ? " chosen" : "") + (record === pinned ? " pinned" : "")}
                          style={{ backgroundColor: background, color: text }}
                        ><span>{fixed(v, value.digits)}</span>{list!.length > 1 && <small>worst of {list!.length}</small>}</button>
                      </td>
                    );
                  })}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </section>
  );
}

export function Legend({ value }: { value: Value }) {
  const steps = Array.from({ length: 9 }, (_, i) => i / 8);
  return (
    <div class="legend">
      <span>{fixed(value.low, value.low % 1 ? 1 : 0)}</span>
      <span class="ramp" aria-hidden="true">{steps.map((s) => <i key={s} style={{ backgroundColor: fill(s, dark.value).background }} />)}</span>
      <span>{fixed(value.high, value.high % 1 ? 1 : 0)}</span>
      <span class="muted">{dark.value ? "brighter" : "darker"}: more leaks</span>
      <span class="swatch weak" aria-hidden="true" /> <span>too weak to count</span> <Help text={strengthHelp} />
    </div>
  );
}
