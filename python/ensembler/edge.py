# SPDX-License-Identifier: Apache-2.0
"""Classify images with a cloud (docs/edge-api.md)."""
from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from . import _native
from .tensors import as_array, as_floats, as_images, as_tensor


@dataclass(frozen=True)
class Ranked:
    index: int
    label: str
    probability: float


class Classified:
    """Of the images of one call. top: for each the most probable classes, best first; logits: float32 [B, classes];
    times: milliseconds and bytes, by part; warnings: of blinded inference."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.top = [[Ranked(*r) for r in image] for image in data["top"]]
        self.logits: "np.ndarray[Any, Any]" = as_array(data["logits"])
        self.times: dict[str, float] = data["times"]
        self.warnings: list[str] = data["warnings"]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each image."""
        return [image[0].label for image in self.top]

    def __len__(self) -> int:
        return len(self.top)

    def __repr__(self) -> str:
        first = ", ".join(f"{image[0].label} {100 * image[0].probability:.0f} %" for image in self.top[:3])
        return f"<Classified {first}{', ...' if len(self) > 3 else ''}: {self.times['total_ms']:.1f} ms>"


class _Edge:
    def __init__(self, bundle: "Union[None, str, os.PathLike[str]]" = None, cloud: Optional[str] = None, *,
                 config: str = "", **settings: Any) -> None:
        given = {"bundle": None if bundle is None else os.fspath(bundle), "cloud": cloud, **settings}
        overrides = [f"{name}={str(value).lower() if isinstance(value, bool) else value}"
                     for name, value in given.items() if value is not None]
        self._native = _native.Edge(config, overrides)
        # No key in it: settings may name files of keys.
        self._shown = f"{given['bundle']}, {cloud or 'cloud of the configuration'}"

    def _tensor(self, images: Any) -> Any:
        a = as_array(images)
        if a.ndim == 3 and a.shape == self.image_shape:
            a = a[None]
        if a.dtype == np.float32 and a.ndim == 4 and a.shape[1:] == self.image_shape:
            return as_tensor(a)  # its values are checked where they are used
        return as_tensor(as_floats(as_images(a)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the network reads."""
        return tuple(self._native.image_shape)  # type: ignore[return-value]

    @property
    def class_names(self) -> list[str]:
        return list(self._native.class_names)

    def read_image(self, file: "Union[str, os.PathLike[str]]") -> "np.ndarray[Any, Any]":
        """[1, channels, height, width], from a file, as docs/images.md says."""
        return as_array(self._native.read_image(os.fspath(file)))[None]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def __reduce__(self) -> Any:
        raise TypeError("an open client is not pickled; open one where it is used")


class EdgeClient(_Edge):
    """with EdgeClient("edge.h5", "tcp://cloud:5755") as edge: edge.classify(x).labels

    bundle: the secret half of a run; cloud: an address. Further settings by name (server_key, secret_key, timeout_ms,
    ...) or config="...", are those of EdgeConfig in docs/config.md. Connecting happens in the background. May be used
    from several threads.
    """

    def classify(self, images: Any) -> Classified:
        """images: [B, channels, H, W] or one, float32 in [0, 1] or uint8 (or [B, H, W, channels]). CloudError says what
        the cloud or the network did, InvalidArgument that the images do not fit."""
        return Classified(self._native.classify(self._tensor(images)))

    def close(self) -> None:
        """Ends what is under way with Unavailable."""
        self._native.close()

    def __enter__(self) -> "EdgeClient":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class AsyncEdgeClient(_Edge):
    """async with AsyncEdgeClient(...) as edge: await edge.classify(x). As EdgeClient, for one event loop: calls that wait
    while the cloud computes travel together, and no thread waits for them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._ids = itertools.count()
        self._pending: "dict[int, asyncio.Future[Classified]]" = {}
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    def _take(self) -> None:
        for number, outcome in self._native.take():
            future = self._pending.pop(number, None)
            if future is None or future.done():  # cancelled
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(Classified(outcome))

    async def classify(self, images: Any) -> Classified:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._native.event, self._take)
        elif self._loop is not loop:
            raise RuntimeError("the client belongs to another event loop")
        number = next(self._ids)
        future: "asyncio.Future[Classified]" = loop.create_future()
        self._pending[number] = future
        try:
            self._native.submit(number, self._tensor(images))
            return await future
        finally:
            self._pending.pop(number, None)

    async def stream(self, frames: "Union[Iterable[Any], AsyncIterable[Any]]",
                     in_flight: int = 8) -> AsyncIterator[Classified]:
        """The results of frames, in their order, at most `in_flight` of which are under way."""
        waiting: "list[asyncio.Task[Classified]]" = []
        try:
            async for frame in _iterate(frames):
                waiting.append(asyncio.ensure_future(self.classify(frame)))
                if len(waiting) >= in_flight:
                    yield await waiting.pop(0)
            while waiting:
                yield await waiting.pop(0)
        finally:
            for task in waiting:
                task.cancel()

    async def close(self) -> None:
        """Ends what is under way with Unavailable."""
        if self._loop is not None:
            self._loop.remove_reader(self._native.event)
        await asyncio.get_running_loop().run_in_executor(None, self._native.close)
        self._take()

    async def __aenter__(self) -> "AsyncEdgeClient":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


async def _iterate(frames: Any) -> AsyncIterator[Any]:
    if hasattr(frames, "__aiter__"):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame
