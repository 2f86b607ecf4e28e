# SPDX-License-Identifier: Apache-2.0
"""Reads a disguised set with h5py, checks its checksums and facts against the rows, and prints what it found as JSON."""
import hashlib
import json
import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1], "r") as f:
    x, y = f["x"], f["y"][...]
    rows = x.chunks[0]
    for i, sums in enumerate(f["x_sha256"][...]):
        assert hashlib.sha256(x[i * rows:(i + 1) * rows].tobytes()).digest() == sums.tobytes(), i
    values = x[...].astype(np.float64) * f.attrs["scale"] + f.attrs["offset"]
    axes = tuple(a for a in range(values.ndim) if a != 1)
    assert np.allclose(values.mean(axes), f.attrs["mean"], rtol=1e-5, atol=1e-4)
    assert np.allclose(values.std(axes), f.attrs["stddev"], rtol=1e-4)
    text = lambda name: f.attrs[name].decode() if isinstance(f.attrs[name], bytes) else str(f.attrs[name])
    print(json.dumps({
        "kind": text("kind"), "version": int(f.attrs["version"]), "method": text("method"), "key_id": text("key_id"),
        "marks": text("marks"), "classes": int(f.attrs["classes"]), "dtype": str(x.dtype), "shape": list(x.shape),
        "labels": y.tolist(), "first": values[0].ravel().tolist(), "last": values[-1].ravel().tolist()}))
