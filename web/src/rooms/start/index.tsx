// SPDX-License-Identifier: Apache-2.0
// The start page: the problem, the parties, the methods, what attackers may know, where to click.
import { get, indexed, jobs, pictureUrl, post, readOnly, state } from "../../api";
import { fixed, percent, when } from "../../format";
import { mainGroup } from "../../groups";
import { levels, methods } from "../../text";
import type { Job, Matrix, RunView } from "../../types";
import { Command, Empty, Help, useLoaded } from "../../ui";

// Who computes what, as a drawing: edge, wire, N bodies of which P are read.
function Parties() {
  const bodies = [0, 1, 2, 3];
  return (
    <figure class="parties" tabIndex={0}>
      <svg viewBox="0 0 720 250" role="img" aria-label="The edge computes the first cells of the network, adds noise and sends features to N server networks in the cloud. It reads the answers of P of them, and only the edge knows which. The attacker holds the cloud.">
        <rect class="edge" x="8" y="24" width="258" height="202" rx="12" />
        <rect class="cloud" x="388" y="24" width="324" height="202" rx="12" />
        <text class="title" x="28" y="54">Edge: yours</text>
        <text class="title" x="408" y="54">Cloud: somebody else's</text>
        <rect class="box" x="28" y="76" width="62" height="46" rx="6" /><text x="59" y="104">image</text>
        <rect class="box" x="108" y="76" width="62" height="46" rx="6" /><text x="139" y="104">head</text>
        <rect class="box accent" x="188" y="76" width="62" height="46" rx="6" /><text x="219" y="104">noise</text>
        <defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" /></marker></defs>
        <path class="arrow to" d="M90 99H104" /><path class="arrow to" d="M170 99H184" />
        <path class="arrow" d="M250 99H404" />
        <text class="small" x="327" y="88">features</text>
        {bodies.map((i) => (
          <g key={i}>
            <path class="arrow to" d={`M404 99 C 436 99 432 ${84 + 32 * i} 460 ${84 + 32 * i}`} />
            <rect class="box" x="466" y={71 + 32 * i} width="92" height="26" rx="6" />
            <text x="512" y={88 + 32 * i}>{`body ${i + 1}`}</text>
            <path class="arrow" d={`M558 ${84 + 32 * i}H576`} />
          </g>
        ))}
        <path class="arrow to" d="M576 84V204H258" />
        <text class="small left" x="592" y="120">All N answer.</text>
        <text class="small left" x="592" y="138">The cloud cannot</text>
        <text class="small left" x="592" y="156">tell which count.</text>
        <rect class="box accent" x="168" y="162" width="84" height="46" rx="6" /><text x="210" y="190">pick P of N</text>
        <rect class="box" x="98" y="162" width="52" height="46" rx="6" /><text x="124" y="190">tail</text>
        <rect class="box" x="28" y="162" width="52" height="46" rx="6" /><text x="54" y="190">class</text>
        <path class="arrow to" d="M168 185H156" /><path class="arrow to" d="M98 185H86" />
        <text class="small" x="327" y="194">N answers</text>
      </svg>
    </figure>
  );
}

// The strongest attack on the run with the most to see, as a picture.
function Example() {
  const group = mainGroup(state.value!.groups);
  const key = group?.runs ? `${group.id}/${group.runs}/${indexed.value > 0 ? group.changed : 0}` : "";
  const loaded = useLoaded(key, async (abort) => {
    const matrix = await get<Matrix>(`matrix?group=${group!.id}`, abort);
    const found: { run: string; attack: string; title: string; row: string; ssim: number }[] = [];
    for (const c of matrix.comparisons) {
      for (const row of c.rows) {
        const best = row.cells.filter((cell) => cell.run && cell.level !== "blind" && cell.ssim?.mean !== undefined)
          .sort((a, b) => (b.ssim!.mean ?? 0) - (a.ssim!.mean ?? 0))[0];
        if (best) found.push({ run: best.run!, attack: best.folder, title: best.title, row: row.title, ssim: best.ssim!.mean! });
      }
    }
    found.sort((a, b) => b.ssim - a.ssim);
    const chosen = found.length > 1 ? [found[0], found[found.length - 1]] : found;
    return Promise.all(chosen.map(async (f) => {
      const run = await get<RunView>(`runs/${f.run}`, abort);
      const view = run.attacks.find((a) => a.folder === f.attack);
      return { ...f, accuracy: run.summary?.accuracy, view };
    }));
  });
  const shown = (loaded.value ?? []).filter((f) => f.view?.reconstruction && f.view.original);
  if (shown.length === 0) return null;
  return (
    <section class="example">
      <h2>What a cloud can rebuild, from your runs</h2>
      <div class="strips">
        <figure>
          <div class="strip"><img src={pictureUrl(shown[0].view!.original!)} alt="The images that the edge classified" /></div>
          <figcaption>What the edge saw. It never left the edge.</figcaption>
        </figure>
        {shown.map((f) => (
          <figure key={f.run + f.attack}>
            <div class="strip"><img src={pictureUrl(f.view!.reconstruction!)} alt={`Rebuilt by ${f.title} from the features of ${f.row}`} /></div>
            <figcaption><strong>{f.row}</strong>, rebuilt by {f.title}: SSIM {fixed(f.ssim, 3)}, accuracy {percent(f.accuracy)}.</figcaption>
          </figure>
        ))}
      </div>
      <p><a href={`#/matrix?group=${group!.id}`}>All attacks and protections in the matrix</a></p>
    </section>
  );
}

function Work() {
  const s = state.value!;
  const demo = jobs.value.find((j) => j.title.startsWith("Prepare the demonstration") && (j.state === "running" || j.state === "queued"));
  if (s.runs > 0) {
    return (
      <section>
        <h2>What is here</h2>
        <p class="muted">{s.runs} runs below <code>{s.runs_folder}</code>{s.damaged ? `, ${s.damaged} of them damaged or of a newer version` : ""}.</p>
        <ul class="groups">
          {s.groups.slice(0, 6).map((g) => (
            <li key={g.id}>
              <a href={`#/matrix?group=${g.id}`}>{g.title}</a>
              <span class="muted">{g.cells ? `${g.runs ?? 0} of ${g.cells} cells` : `${g.runs ?? 0} runs`}, {when(g.changed)}</span>
            </li>
          ))}
        </ul>
      </section>
    );
  }
  if (demo) {
    return <section><h2>Being prepared</h2><p>The demonstration trains and attacks small networks on drawn figures. The first results appear here within seconds, all of them within a minute or two. <a href="#/disguise">Disguise a picture</a> meanwhile.</p></section>;
  }
  return (
    <Empty title="There are no runs yet" command="ensembler studio --demo">
      <p>Train something, or let the studio prepare small runs on drawn figures.</p>
      {!readOnly.value && <button type="button" class="primary" onClick={() => post<Job>("jobs", { kind: "DEMO" }).then((job) => { jobs.value = [job, ...jobs.value.filter((j) => j.id !== job.id)]; }, () => undefined)}>Prepare demonstration runs</button>}
    </Empty>
  );
}

export function StartPage() {
  const available = new Set(state.value!.rooms.map((r) => r.name));
  return (
    <div class="start">
      <section class="hero">
        <h1>Let a cloud compute, without showing it your pictures</h1>
        <p class="lead">A phone or a camera is too small for the whole network, so a cloud computes most of it. What it is sent looks like noise, but attackers rebuild the picture from it. Ensembler protects what is sent, and measures with the strongest attacks we know how well that works.</p>
      </section>
      <Parties />
      <Example />
      <Work />
      <section>
        <h2>Where to click</h2>
        <ul class="cards">
          {methods.filter((m) => available.has(m.room)).map((m) => (
            <li key={m.name}><h3>{m.name}</h3><p>{m.what}</p><a href={`#/${m.room}`}>{m.link}</a></li>
          ))}
        </ul>
      </section>
      <section>
        <h2>What an attacker may know <Help text="Every attack runs through a typed view that holds exactly this and nothing else; a low score only counts if the attacker was strong." /></h2>
        <dl class="levels">{levels.map((l) => <div key={l.name}><dt>{l.name}</dt><dd>{l.meaning}</dd></div>)}</dl>
      </section>
      <section>
        <h2>On the command line</h2>
        <Command text="ensembler sweep table1-cifar10-small --out runs/table1" />
        <p class="muted">Whatever appears below <code>{state.value!.runs_folder}</code> shows up here by itself.</p>
      </section>
    </div>
  );
}
