# SPDX-License-Identifier: Apache-2.0
"""Trainings, attacks, reports and sweeps: the verbs of the program `ensembler`, with its names and defaults."""
from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from . import _native
from .config import Config, as_config, find_config, to_text
from .data import Dataset
from .errors import EnsemblerError, UsageError
from .nets import Net
from .progress import Progress, Reporter
from .results import Result, Results, read_results
from .tensors import as_array, as_bytes, as_floats, as_images, as_tensor

PathLike = Union[str, "os.PathLike[str]"]


class Run:
    """A run: a folder with a training and the attacks on it. Pickles as its path."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        if not _native.is_run(str(self.folder)):
            raise UsageError(f"'{self.folder}' is no run folder", "Run", "ensembler.train(config, out=folder) makes one")

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").exists()

    @property
    def config(self) -> Any:
        config = Config()
        object.__setattr__(config, "_native", _native.run_config(str(self.folder)))
        return config

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: accuracy, costs, what is sent. Of a finished training."""
        return dict(json.loads(_native.summary_json(str(self.folder / "summary.json"))))

    @property
    def accuracy(self) -> float:
        """On the test images, 0 to 1."""
        return float(self.summary["accuracy"])

    @property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        with open(self.folder / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def results(self) -> Results:
        """Of the attacks so far."""
        return _with_strength(read_results(self.folder), [self.folder])

    @property
    def edge_bundle(self) -> Path:
        """The edge's half, which is secret."""
        return self.folder / "edge.h5"

    @property
    def cloud_bundle(self) -> Path:
        return self.folder / "cloud.h5"

    def export(self, folder: PathLike, *, format: str = "onnx", secrets: bool = False) -> list[Path]:
        """The networks for other programs, as "onnx" or "safetensors" (docs/import.md). Head, tail, noise and which nets
        are selected only with secrets=True, into files that only their owner reads."""
        if format not in ("onnx", "safetensors"):
            raise UsageError(f"format '{format}'", "export", "use onnx or safetensors")
        files, _ = _native.export_run(str(self.folder), os.fspath(folder), format == "onnx", secrets)
        return [Path(f) for f in files]

    def __fspath__(self) -> str:
        return str(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.folder.resolve() == other.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    def __reduce__(self) -> Any:
        return (Run, (str(self.folder.resolve()),))

    def __repr__(self) -> str:
        if not self.done:
            return f"<Run {self.folder}: unfinished>"
        s = self.summary
        nets = f", {s['nets']} nets of which {s['selected']} are selected" if s.get("nets", 1) > 1 else ""
        return f"<Run {self.folder}: {s['protection']}{nets}, {s['data']}, accuracy {100 * s['accuracy']:.1f} %>"


def train(config: Any = None, *, out: PathLike, data: "Union[None, Dataset, tuple[Dataset, Dataset]]" = None,
          nets: Sequence[Net] = (), reuse: Iterable[PathLike] = (), progress: Progress = None,
          **settings: Any) -> Run:
    """Trains into the folder `out`; one that is there is resumed, or found done. Ctrl-C ends it within 2 s, and it goes on
    from what is saved when it is called again.

    config: a Config, or a configuration by file or name; settings: on top, by path (**{"stage1.epochs": 3}).
    data: the images to train on, or those and the test images, instead of data.name; they are kept in the user's cache.
    nets: trained networks in place of stage 1. reuse: runs whose equal trainings are taken over.
    """
    given = as_config(config)
    for net in nets:
        if net.settings != nets[0].settings:
            raise UsageError(f"{net!r} beside {nets[0]!r}", "nets", "give nets of one form, normalised alike")
        given.update(net.settings)
    if data is not None:
        training, test = data if isinstance(data, tuple) else (data, None)
        given.update({"data.name": f"folder:{training.stored(test)}", "data.label_column": "label",
                      "data.image_size": training.shape[1]})
    given.update(settings)
    files = [net._native.file for net in nets]
    native = _native.import_config(given._native, files) if nets else given._native.completed()
    with Reporter(progress) as report:
        _native.train(native, os.fspath(out), [os.fspath(r) for r in reuse], files, report)
    return Run(out)


def ensemble(nets: Sequence[Net], *, selected: int, data: "Union[None, Dataset, tuple[Dataset, Dataset]]" = None,
             out: PathLike, config: Any = None, progress: Progress = None, **settings: Any) -> Run:
    """An ensemble of trained networks, as stage 1 of arXiv 2401.10859 would have left them, `selected` of which are chosen
    in secret: stage 2 is trained around them. Everything else as train()'s."""
    chosen: dict[str, Any] = {"ensemble.nets": len(nets), "ensemble.selected": selected, **settings}
    return train(config, out=out, data=data, nets=nets, progress=progress, **chosen)


def _folders(runs: Any) -> list[str]:
    if isinstance(runs, (str, os.PathLike)):
        runs = [runs]
    return [os.fspath(r) for r in runs]


def _with_strength(results: Results, folders: Sequence[PathLike]) -> Results:
    if results:
        words = {(Path(row["folder"]), row["attack"]): row["strength"] for row in table(folders)}
        for r in results:
            assert r._folder is not None
            r.strength = words.get((r._folder.parent.parent, r.attack), "")
    return results


def attack(runs: "Union[PathLike, Run, Sequence[Union[PathLike, Run]]]", attacks: Optional[Sequence[str]] = None, *,
           config: Any = None, again: bool = False, progress: Progress = None, **settings: Any) -> Results:
    """What the cloud could reconstruct of finished runs: runs the attacks (by default those of attack.tier), but for those
    whose result is there for the same settings, unless `again`. settings: those of attacks, and device, dtype.

    An attack that fails does not end the others: its result says why."""
    wanted = as_config(config, settings)
    names = list(attacks) if attacks is not None else _native.default_attacks(wanted.attack.tier)
    unknown = [name for name in names if name not in _native.attack_names()]
    if unknown:
        nearest = _native.nearest_word(unknown[0], _native.attack_names())
        raise UsageError(f"no attack '{unknown[0]}'", "attack", f"did you mean '{nearest}'?" if nearest else
                         "there are " + ", ".join(_native.attack_names()))
    folders = [Run(folder) for folder in _folders(runs)]
    for run in folders:
        if not run.done:
            raise UsageError(f"'{run.folder}' is not finished", "attack", "train it first: ensembler.train(..., out=...)")
    with Reporter(progress) as report:
        _native.attack([str(r.folder) for r in folders], names, wanted._native, again, report)
    # The seed is in the folder's name where it is not the run's.
    return Results(r for run in folders for r in run.results if r.attack in names)


def report(runs: Any, html: PathLike, *, figures: Optional[PathLike] = None) -> Path:
    """One page about runs and sweeps, without links to anything outside, and beside it tables as CSV, JSON, Markdown and
    LaTeX."""
    _native.report(_folders(runs), os.fspath(html), "" if figures is None else os.fspath(figures))
    return Path(html)


class Table(list[dict[str, str]]):
    """A row for each run and attack, with the columns of the report's CSV file."""

    def to_pandas(self) -> Any:
        import pandas
        return pandas.read_csv(io.StringIO(self.csv)) if self.csv else pandas.DataFrame()

    csv = ""

    def __repr__(self) -> str:
        shown = ("row", "protection", "accuracy", "attack", "ssim", "psnr", "strength")
        cells = [list(shown)] + [[row.get(c, "")[:28] for c in shown] for row in self]
        widths = [max(len(row[i]) for row in cells) for i in range(len(shown))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells)


def table(runs: Any) -> Table:
    """The report's table of runs and sweeps."""
    text = _native.report_csv(_folders(runs))
    out = Table(csv.DictReader(io.StringIO(text)))
    out.csv = text
    return out


class Cell:
    """One run of a sweep. status: done, failed, skipped, unfinished; reason: why it is not done."""

    def __init__(self, sweep: Path, data: dict[str, Any]) -> None:
        self.row = str(data.get("row", ""))
        self.values: dict[str, str] = data.get("values", {})
        self.attacks: list[str] = data.get("attacks", [])
        self.status = str(data.get("status", ""))
        self.reason = str(data.get("reason", ""))
        self.folder = sweep / data["folder"]

    @property
    def run(self) -> Run:
        return Run(self.folder)

    def __repr__(self) -> str:
        return f"<Cell {self.folder.name}: {self.status}{': ' + self.reason if self.reason else ''}>"


def _quoted(text: str) -> str:
    return json.dumps(text)


def sweep(config: Any, axes: Optional[Mapping[str, Sequence[Any]]] = None, *, out: PathLike,
          attacks: Sequence[str] = (), reuse: Iterable[PathLike] = (), jobs: int = 0, progress: Progress = None,
          **settings: Any) -> list[Cell]:
    """Trains and attacks every combination of values, and leaves out/report.html. What is done already is skipped.

    config: a SweepConfig file or the name of one that comes with the package; or with `axes` a Config (or the file or
    name of one): axes={"ensemble.selected": [1, 2]} is its grid. attacks: on every cell; by default all.
    A cell that fails says why, and stops nothing. Ctrl-C: as train().
    """
    if axes is None:
        file = find_config(config)
        text, source = Path(file).read_text(), file
        text += "".join(f"\nattack: {_quoted(a)}" for a in attacks)
    else:
        base = as_config(config)
        text, source = "base {\n" + base.to_text() + "}\n", "axes"
        for path, values in axes.items():
            text += f"axis {{ path: {_quoted(path)}" + "".join(f" value: {_quoted(to_text(v))}" for v in values) + " }\n"
        text += "".join(f"attack: {_quoted(a)}\n" for a in attacks)
    overrides = [f"{path}={to_text(value)}" for path, value in settings.items()]
    with Reporter(progress) as reporter:
        _native.sweep(text, source, os.fspath(out), overrides, [os.fspath(r) for r in reuse], jobs, reporter)
    return cells(out)


def cells(folder: PathLike) -> list[Cell]:
    """Of a sweep's folder."""
    state = json.loads(_native.sweep_json(str(Path(folder) / "sweep.json")))
    return [Cell(Path(folder), cell) for cell in state.get("cells", [])]


def attack_features(*, z: Any, truth: Any, pairs: Optional[tuple[Any, Any]] = None, public: Any = None,
                    query: Optional[Callable[[Any], Any]] = None,
                    attacks: Sequence[str] = ("oracle", "known-pairs", "alignment"), layout: Optional[str] = None,
                    config: Any = None, progress: Progress = None, **settings: Any) -> Results:
    """What an attacker could reconstruct from the features of any network, of any framework: no weights are needed.

    z: what the client sent, [M, C, h, h]; truth: the images behind it, [M, channels, S, S], S a power of two times h,
    uint8 or in [0, 1] (or [M, S, S, channels]), for the scores alone. pairs: (images, features) that the attacker has.
    public: images that it has without features, of the same kind; a Dataset or an array. query: a function of images
    float32 [B, channels, S, S] in [0, 1] to their features, if the attacker may ask; without it the attacks of
    unlimited queries (oracle, linear-decoder, retrieval) learn from all pairs.
    settings: those of attacks (**{"attack.decoder.epochs": 2}), seed, device, dtype.

    Attacks: oracle, linear-decoder, retrieval, known-pairs, alignment, nearest-public, mean-image (docs/lab.md).
    """
    wanted = as_config(config, settings).resolved()

    def images(x: Any, name: str) -> Any:
        return as_images(x.images if isinstance(x, Dataset) else x, "NHWC" if isinstance(x, Dataset) else layout, name)

    def floats(x: Any, name: str) -> Any:
        array = as_array(x)
        if array.dtype.kind not in "fiu":
            raise UsageError(f"features of dtype {array.dtype}", name, "give float32")
        return as_tensor(array.astype(np.float32))

    def dataset(x: Any, name: str) -> Any:
        if x is None:
            return None
        pixels = as_bytes(images(x, name))
        return _native.Dataset(as_tensor(pixels), as_tensor(np.zeros(len(pixels), np.int32)), ["image"], name)

    original = as_floats(images(truth, "truth"))
    pair_images, pair_features = pairs if pairs is not None else (None, np.zeros((0,), np.float32))
    asked = None if query is None else lambda x: floats(query(as_array(x)), "query")
    with Reporter(progress) as reporter:
        found = _native.attack_features(
            floats(z, "z"), as_tensor(original), dataset(pair_images, "pairs"), floats(pair_features, "pairs"),
            dataset(public, "public"), asked, list(attacks), wanted._native, reporter)

    def shown(x: Any) -> Any:
        return None if x is None else np.rint(np.clip(as_array(x), 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)

    return Results(Result(json.loads(text), originals=shown(original), images=shown(x)) for text, x in found)
