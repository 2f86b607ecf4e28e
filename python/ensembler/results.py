# SPDX-License-Identifier: Apache-2.0
"""What attacks found."""
from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

import numpy as np

from . import _native
from .tensors import as_array, as_tensor


def _strip_to_images(file: Path) -> "Optional[np.ndarray[Any, Any]]":
    """The images of a PNG with several side by side: uint8 [n, H, W, channels]."""
    if not file.exists():
        return None
    strip = as_array(_native.read_image(str(file), 3))
    channels, side, width = strip.shape
    images = strip.reshape(channels, side, width // side, side).transpose(2, 1, 3, 0)
    return np.ascontiguousarray(np.rint(images * 255).astype(np.uint8))


class Result:
    """One attack: scores, and what it reconstructed.

    ssim, psnr and mse are means over the scored images (and medians over seeds), None where the attack failed
    (`error`) or does not apply (`pointless`). images and originals are uint8 [n, H, W, channels]. at_floor: it read no
    more than an attack that does not look at the features; never take such a score for a protection's merit.
    data: everything, as result.json has it.
    """

    def __init__(self, data: dict[str, Any], *, run: "Optional[str]" = None, folder: Optional[Path] = None,
                 originals: Any = None, images: Any = None, strength: str = "") -> None:
        self.data = data
        self.run = run
        self._folder = folder
        self._originals = originals
        self._images = images
        self.strength = strength

    @property
    def attack(self) -> str:
        return str(self.data["attack"])

    @property
    def title(self) -> str:
        return str(self.data["title"])

    @property
    def level(self) -> str:
        """What the attacker knows: "black box", "known pairs", "query-free", ..."""
        return str(self.data["level"])

    def _mean(self, name: str) -> Optional[float]:
        value = self.data.get(name, {}).get("mean")
        return None if value is None else float(value)

    @property
    def ssim(self) -> Optional[float]:
        return self._mean("ssim")

    @property
    def psnr(self) -> Optional[float]:
        return self._mean("psnr")

    @property
    def mse(self) -> Optional[float]:
        return self._mean("mse")

    @property
    def interval(self) -> Optional[tuple[float, float]]:
        """The 95 % interval of ssim."""
        ssim = self.data.get("ssim", {})
        return (float(ssim["low"]), float(ssim["high"])) if "low" in ssim else None

    @property
    def floor(self) -> Optional[float]:
        """The SSIM of the best attack that does not look at the features."""
        value = self.data.get("floor", {}).get("ssim", {}).get("mean")
        return None if value is None else float(value)

    @property
    def at_floor(self) -> bool:
        return self.ssim is not None and self.floor is not None and self.ssim <= self.floor

    @property
    def error(self) -> Optional[str]:
        return self.data.get("error")

    @property
    def pointless(self) -> Optional[str]:
        return self.data.get("pointless")

    @property
    def images(self) -> "Optional[np.ndarray[Any, Any]]":
        if self._images is None and self._folder is not None:
            self._images = _strip_to_images(self._folder / "reconstruction.png")
        return self._images

    @property
    def originals(self) -> "Optional[np.ndarray[Any, Any]]":
        if self._originals is None and self._folder is not None:
            self._originals = _strip_to_images(self._folder / "original.png")
        return self._originals

    def row(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        return {"run": self.run, "attack": self.attack, "level": self.level, "ssim": self.ssim, "low": low,
                "high": high, "psnr": self.psnr, "mse": self.mse, "floor": self.floor, "at_floor": self.at_floor,
                "strength": self.strength or None, "note": self.error or self.pointless}

    def __repr__(self) -> str:
        where = f" on {self.run}" if self.run else ""
        if self.ssim is None:
            return f"<Result {self.attack}{where}: {self.error or self.pointless}>"
        marks = "".join(f", {m}" for m in (self.strength, "at the floor" if self.at_floor else "") if m)
        return f"<Result {self.attack}{where}: SSIM {self.ssim:.3f}, PSNR {self.psnr:.1f} dB{marks}>"

    def _repr_html_(self) -> str:
        parts = [f"<p>{html.escape(repr(self)[1:-1])}</p>"]
        for title, images in (("original", self.originals), ("reconstruction", self.images)):
            if images is not None:
                strip = np.concatenate(list(images[:8]), axis=1).astype(np.float32) / np.float32(255)
                png = _native.encode_png(as_tensor(strip.transpose(2, 0, 1)), 2)
                parts.append(f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(png).decode()}"><br>')
        return "".join(parts)


class Results(list["Result"]):
    """Results in the order of tables: a list that prints as a table."""

    def __init__(self, results: Iterable[Result] = ()) -> None:
        super().__init__(results)

    def by_attack(self, name: str) -> "Results":
        return Results(r for r in self if r.attack == name)

    def rows(self) -> list[dict[str, Any]]:
        return [r.row() for r in self]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, a row for each result; ImportError without pandas."""
        import pandas
        return pandas.DataFrame(self.rows())

    def _cells(self) -> list[list[str]]:
        cells = [["run", "attack", "knows", "SSIM", "95 %", "PSNR", ""]]
        for r in self:
            if r.ssim is None:
                cells.append([r.run or "", r.attack, r.level, "", "", "", r.error or r.pointless or ""])
                continue
            low, high = r.interval or (r.ssim, r.ssim)
            note = ", ".join(m for m in (r.strength, "at the floor" if r.at_floor else "") if m)
            cells.append([r.run or "", r.attack, r.level, f"{r.ssim:.3f}", f"{low:.3f} to {high:.3f}", f"{r.psnr:.1f}",
                          note])
        if not any(row[0] for row in cells[1:]):
            cells = [row[1:] for row in cells]
        return cells

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells)

    def _repr_html_(self) -> str:
        head, *rows = self._cells()

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"
        return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def read_results(run: Path) -> Results:
    """Of a run's folder."""
    return Results(Result(json.loads(_native.result_json(file)), run=run.name, folder=Path(file).parent)
                   for file in _native.result_files(str(run)))
