# SPDX-License-Identifier: Apache-2.0
"""Labelled images: of arrays, of torch's data sets, of what the programs know by name."""
from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from . import _native
from .errors import UsageError
from .progress import Progress, Reporter
from .tensors import as_array, as_bytes, as_images, as_tensor


class Dataset:
    """Square images of one size, each with a class. Pickles as its arrays."""

    def __init__(self, native: Any) -> None:
        self._native = native

    @classmethod
    def from_arrays(cls, x: Any, y: Any, *, classes: Optional[Sequence[str]] = None, layout: Optional[str] = None,
                    name: str = "arrays") -> "Dataset":
        """x: uint8, or floats in [0, 1]: [N, channels, H, W], [N, H, W, channels] or, grey, [N, H, W]; y: [N]
        classes, counted from 0. classes: their names; layout: "NCHW" or "NHWC" where both fit."""
        images = as_bytes(as_images(x, layout, name))
        labels = as_array(y)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
            raise UsageError(f"labels {labels.dtype} {labels.shape} for {len(images)} images", name,
                             f"give {len(images)} integers")
        if labels.min() < 0:
            raise UsageError(f"a label {labels.min()}", name, "labels count from 0")
        names = [str(c) for c in classes] if classes is not None else [str(i) for i in range(int(labels.max()) + 1)]
        return cls(_native.Dataset(as_tensor(images), as_tensor(labels.astype(np.int32)), names, name))

    @classmethod
    def from_torch(cls, dataset: Any, limit: int = 0, *, classes: Optional[Sequence[str]] = None,
                   progress: Progress = None) -> "Dataset":
        """Of a torch data set of (image, label): PIL images, or tensors [channels, H, W] of uint8 or of floats in
        [0, 1]. Read once, here. limit: at most so many; 0: all."""
        count = min(len(dataset), limit or len(dataset))
        images, labels = [], []
        with Reporter(progress) as report:
            for i in range(count):
                image, label = dataset[i]
                images.append(as_array(image))
                labels.append(int(label))
                if report and (i % 256 == 0 or i + 1 == count):
                    report("reading", i + 1, count, "")
        if not images:
            raise UsageError("no images", "from_torch")
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise UsageError(f"images of several shapes: {sorted(shapes)[:3]}", "from_torch",
                             "resize them, as by torchvision.transforms.Resize and CenterCrop")
        layout = None  # PIL's are [H, W] or [H, W, channels], tensors [channels, H, W]
        if len(images[0].shape) == 3:
            layout = "NCHW" if hasattr(dataset[0][0], "detach") else "NHWC"
        return cls.from_arrays(np.stack(images), np.asarray(labels),
                               classes=classes if classes is not None else getattr(dataset, "classes", None),
                               layout=layout, name="torch")

    @classmethod
    def load(cls, name: str, *, test: bool = False, root: str = "", image_size: int = 0, limit: int = 0, seed: int = 1,
             progress: Progress = None) -> "Dataset":
        """What `data.name` calls so: "shapes", "cifar10", "folder:PATH", ... The training split, or test=True."""
        with Reporter(progress) as report:
            return cls(_native.load_dataset(name, root, image_size, limit, seed, test, report))

    def __len__(self) -> int:
        return len(self._native)

    @property
    def images(self) -> "np.ndarray[Any, Any]":
        """uint8 [N, H, W, channels]; a view."""
        return np.asarray(self._native.pixels).transpose(0, 2, 3, 1)

    @property
    def x(self) -> "np.ndarray[Any, Any]":
        """float32 [N, channels, H, W] in [0, 1], as networks read them; a copy."""
        return np.asarray(self._native.pixels).astype(np.float32) / np.float32(255)

    @property
    def labels(self) -> "np.ndarray[Any, Any]":
        """int32 [N]; a view."""
        return np.asarray(self._native.labels)

    @property
    def classes(self) -> list[str]:
        return list(self._native.classes)

    @property
    def name(self) -> str:
        return str(self._native.name)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return tuple(self._native.shape)  # type: ignore[return-value]

    def __getitem__(self, which: slice) -> "Dataset":
        """ds[:100]: a data set of some of the images."""
        if not isinstance(which, (slice, np.ndarray, list)):
            raise TypeError("a data set is cut by a slice, a mask or a list of numbers")
        pixels = np.ascontiguousarray(np.asarray(self._native.pixels)[which])
        return Dataset(_native.Dataset(as_tensor(pixels), as_tensor(np.ascontiguousarray(self.labels[which])),
                                       self.classes, self.name))

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {len(self)} images of {'x'.join(map(str, self.shape))}, " \
               f"{len(self.classes)} classes>"

    def __reduce__(self) -> Any:
        return (_restore, (np.array(self._native.pixels), np.array(self.labels), self.classes, self.name))

    def save(self, folder: "str | os.PathLike[str]", test: "Optional[Dataset]" = None) -> Path:
        """As an image folder (docs/images.md), which data.name = "folder:PATH" reads: PNG files and labels.csv. `test`:
        the images of the test split; without it a fifth of these."""
        folder = Path(folder)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for split, part in (("train", self), ("test", test)):
            if part is None:
                continue
            if part.classes != self.classes or part.shape != self.shape:
                raise UsageError(f"{part!r} for the test and {self!r} for the training", "save",
                                 "give both the same classes and shape")
            _native.write_pngs(part._native, str(folder / "images"), split)
            for i, label in enumerate(part.labels):
                rows.append((f"{split}{i:06d}.png", int(label), part.classes[label], split))
        unfinished = folder / "labels.csv.part"
        with open(unfinished, "w", newline="") as out:
            table = csv.writer(out)
            table.writerow(["file", "label", "name"] + (["split"] if test is not None else []))
            table.writerows(row if test is not None else row[:3] for row in rows)
        os.replace(unfinished, folder / "labels.csv")
        return folder

    def digest(self) -> str:
        """SHA-256 of images, labels and classes."""
        h = hashlib.sha256(repr((self.shape, self.classes)).encode())
        h.update(np.asarray(self._native.pixels))
        h.update(np.ascontiguousarray(self.labels))
        return h.hexdigest()

    def stored(self, test: "Optional[Dataset]" = None) -> Path:
        """save()d once in the user's cache, where runs find it again."""
        key = hashlib.sha256((self.digest() + (test.digest() if test is not None else "")).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "ensembler-data" / "arrays" / key
        if not (folder / "labels.csv").exists():
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # training images may be private
            self.save(folder, test)  # labels.csv last
        return folder


def _restore(pixels: Any, labels: Any, classes: list[str], name: str) -> Dataset:
    return Dataset(_native.Dataset(as_tensor(pixels), as_tensor(labels), classes, name))
