# SPDX-License-Identifier: Apache-2.0
"""Networks that were trained elsewhere."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from . import _native
from .errors import EnsemblerError, UsageError
from .tensors import as_array, as_floats, as_images, as_tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _bare(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name[name.index(".") + 1:]
    return name


class Net:
    """A classifier's weights with where it is cut. Frozen; not pickled: save it as safetensors."""

    def __init__(self, native: Any, settings: dict[str, Any]) -> None:
        self._native = native
        self.settings = settings  # of a Config, what the weights and from_state_dict() say

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], architecture: str = "resnet18", *,
                        split: tuple[int, int] = (1, 1), image_size: Optional[int] = None,
                        mean: Sequence[float], std: Sequence[float], stem_pool: bool = True, verify: Any = None,
                        source: str = "state_dict") -> "Net":
        """Of a torch state dict (or arrays by name) with torchvision's names of resnet18, resnet34 or vgg16_bn.

        split: how many cells (h, t) the edge runs before and after the cloud. image_size: of the images that it reads,
        by default 224, or 32 with a 3x3 stem. mean, std: how images in [0, 1] are normalised before it. stem_pool:
        whether there is a max pooling behind ResNet's first convolution. verify: the torch module itself, to compare the
        logits of 8 random images, normalised so, to 1e-4 of their size.

        Strict: UsageError says which name is missing, superfluous or of another shape, and the likely cause.
        """
        weights = {}
        for name, value in state.items():
            bare = _bare(name)
            if bare.endswith("num_batches_tracked"):
                continue
            if bare in weights:
                raise UsageError(f"'{bare}' is there twice, with and without a prefix", source)
            weights[bare] = as_tensor(as_array(value))
        if not weights:
            raise UsageError("no weights", source)

        def shape(name: str, axis: int, otherwise: int) -> int:
            w = weights.get(name)
            return int(w.shape[axis]) if w is not None and len(w.shape) > axis else otherwise

        vgg = architecture.startswith("vgg")
        stem = shape("conv1.weight", -1, 3)
        first = "features.0.weight" if vgg else "conv1.weight"
        mean, std = [float(v) for v in mean], [float(v) for v in std]
        settings: dict[str, Any] = {
            "model.architecture": "vgg16" if vgg else architecture,
            "model.width": shape(first, 0, 64),
            "model.stem_pool": stem_pool,
            "model.stem_kernel": stem,
            "model.hidden": shape("classifier.0.weight", 0, 0) if vgg else 0,
            "model.mean": ",".join(map(repr, mean)),
            "model.stddev": ",".join(map(repr, std)),
            "model.head_cells": split[0],
            "model.tail_cells": split[1],
            "data.image_size": image_size or (32 if not vgg and stem == 3 else 224),
        }
        native = _native.Net(
            architecture=settings["model.architecture"], width=settings["model.width"],
            classes=shape("classifier.6.weight" if vgg else "fc.weight", 0, 1000), channels=shape(first, 1, 3),
            image_size=settings["data.image_size"], stem_pool=stem_pool, stem_kernel=stem,
            hidden=settings["model.hidden"], mean=mean, stddev=std, weights=weights, source=source)
        net = cls(native, settings)
        cells = len(native.cells())
        if min(split) < 1 or sum(split) >= cells:
            raise UsageError(f"split {split} of {cells} cells", source,
                             "one cell or more each for head, cloud and tail: " + ", ".join(native.cells()))
        if verify is not None:
            net._verify(verify, (shape(first, 1, 3), settings["data.image_size"]), mean, std)
        return net

    @classmethod
    def from_safetensors(cls, file: "str | os.PathLike[str]", architecture: str = "resnet18", **options: Any) -> "Net":
        """The same from a safetensors file; nothing in it is executed."""
        return cls.from_state_dict(_native.read_safetensors(os.fspath(file)), architecture, source=os.fspath(file),
                                   **options)

    def _verify(self, module: Any, image: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        import torch
        channels, side = image
        x = np.random.default_rng(0).random((8, channels, side, side), dtype=np.float32)
        m, s = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (mean, std))
        training = module.training
        module.eval()
        with torch.no_grad():
            theirs = as_array(module((torch.from_numpy(x) - m) / s))
        module.train(training)
        worst = float(np.abs(self.logits(x) - theirs).max() / max(1.0, float(np.abs(theirs).max())))
        if not worst <= 1e-4:
            raise EnsemblerError(f"the logits differ from the module's by {worst:.2g} of their size", "verify",
                                 "is stem_pool as in the module, and its forward() that of torchvision?")

    def logits(self, images: Any, layout: Optional[str] = None) -> "np.ndarray[Any, Any]":
        """[N, classes] of images in [0, 1], or uint8."""
        return as_array(self._native.forward(as_tensor(as_floats(as_images(images, layout)))))

    @property
    def cells(self) -> list[str]:
        """Between which the network may be cut."""
        return list(self._native.cells())

    @property
    def sha256(self) -> str:
        return str(self._native.file.sha256)

    def state_dict(self, *, torch: bool = False) -> dict[str, Any]:
        """The weights under torchvision's names: numpy arrays, or torch tensors that load_state_dict() takes."""
        state = {name: as_array(t) for name, t in self._native.state().items()}
        if torch:
            import torch as framework
            return {name: framework.from_numpy(a) for name, a in state.items()}
        return state

    def save(self, file: "str | os.PathLike[str]") -> None:
        """As safetensors, which `ensembler import` and from_safetensors() read; readable by its owner alone, since the
        first and last cells are what an edge keeps secret."""
        _native.write_safetensors(os.fspath(file), self._native.state(), True)

    def __repr__(self) -> str:
        s = self.settings
        return f"<Net {s['model.architecture']} of width {s['model.width']}, images of {s['data.image_size']} pixels, " \
               f"split {s['model.head_cells']}, {s['model.tail_cells']}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Net is not pickled; net.save(file) writes safetensors")
