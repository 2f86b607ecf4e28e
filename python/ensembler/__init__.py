# SPDX-License-Identifier: Apache-2.0
"""Private collaborative inference, and a lab that measures attacks on it. docs/python.md has the tour.

    import ensembler as ens
    run = ens.train("demo", out="runs/mine", progress=True)
    ens.attack(run, ["oracle", "alignment"])
"""
from __future__ import annotations

import atexit as _atexit
import ctypes as _ctypes
import importlib as _importlib
import os as _os
from typing import Any as _Any

# GNU OpenMP's threads spin for milliseconds at every barrier, which on a machine with other work to do costs most of the
# time. It reads the limit when it is loaded.
try:
    _ctypes.CDLL("libgomp.so.1", mode=_os.RTLD_NOLOAD)
except OSError:
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(_os.environ):
        _os.environ["GOMP_SPINCOUNT"] = "10000"

from . import _native  # noqa: E402

__version__: str = _native.version

_WHERE = {
    "Config": "config", "Dataset": "data", "Net": "nets", "Result": "results", "Results": "results",
    "Run": "runs", "Cell": "runs", "Table": "runs", "attack": "runs", "attack_features": "runs", "cells": "runs",
    "ensemble": "runs", "report": "runs", "sweep": "runs", "table": "runs", "train": "runs",
    "AsyncEdgeClient": "edge", "Classified": "edge", "EdgeClient": "edge",
    "Tensor": "tensors", "as_array": "tensors", "as_tensor": "tensors",
    "CloudError": "errors", "DeadlineExceeded": "errors", "EnsemblerError": "errors", "FingerprintMismatch": "errors",
    "Internal": "errors", "InvalidArgument": "errors", "MissingFileError": "errors", "ResourceExhausted": "errors",
    "Unauthenticated": "errors", "Unavailable": "errors", "UsageError": "errors", "VersionMismatch": "errors",
}
__all__ = ["__version__", *_WHERE]

_atexit.register(_native.wait_for_abandoned_calls)


def __getattr__(name: str) -> _Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ensembler' has no attribute '{name}'")
    room = _WHERE[name]
    if room in ("config", "data", "nets", "results", "runs") and not hasattr(_native, "RunConfig"):
        raise AttributeError(f"'{name}' is not in an edge alone; install python3-ensembler")
    value = getattr(_importlib.import_module("." + room, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
