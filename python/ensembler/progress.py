# SPDX-License-Identifier: Apache-2.0
"""One line that says how far a long call is."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Optional, Union

# True: a line on stderr, by tqdm where it is installed; f(done, total, note): called at most 20 times a second; total
# is 0 where it is not known. What it raises stops the work.
Progress = Union[bool, None, Callable[[int, int, str], Any]]


class Bar:
    def __init__(self) -> None:
        self._tqdm: Any = None
        self._label: Optional[str] = None
        self._shown = 0.0
        try:
            from tqdm.auto import tqdm
            self._make: Any = tqdm
        except ImportError:
            self._make = None

    def __call__(self, label: str, done: int, total: int, note: str) -> None:
        if self._make:
            if label != self._label:
                self.close()
                self._tqdm = self._make(total=total or None, desc=label, unit=" images")
            self._tqdm.n = done
            self._tqdm.set_postfix_str(note)
        else:
            now = time.monotonic()
            last = total > 0 and done >= total
            every = 0.1 if sys.stderr.isatty() else 5.0
            if now - self._shown >= every or (last and label != self._label):
                self._shown = now
                share = f"{100 * done // total:3d} %  {done}/{total}" if total else str(done)
                end = "\x1b[K\r" if sys.stderr.isatty() else "\n"
                sys.stderr.write(f"{label} {share}  {note}{end}")
                sys.stderr.flush()
        self._label = label

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
        elif self._label is not None and sys.stderr.isatty():
            sys.stderr.write("\n")


class Reporter:
    """For the native calls: with Reporter(progress) as p: native(..., p)."""

    def __init__(self, progress: Progress) -> None:
        self._bar = Bar() if progress is True else None
        self._call = progress if callable(progress) else None

    def __enter__(self) -> Any:
        if self._bar:
            return self._bar
        if self._call:
            call = self._call
            return lambda label, done, total, note: call(done, total, f"{label}: {note}" if note else label)
        return None

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.close()
