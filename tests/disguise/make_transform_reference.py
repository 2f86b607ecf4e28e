# SPDX-License-Identifier: Apache-2.0
"""Writes transform_reference.json: RMT by NumPy, AES by numpy.kron and the openssl program. Run it with Debian's python3-numpy
in this folder; the tests read what it wrote."""
import json
import subprocess

import numpy as np

rng = np.random.default_rng(20261130)


def padded(images, r, s):
    h, w = images.shape[2:]
    return np.pad(images, ((0, 0), (0, 0), (0, -h % r), (0, -w % s)), mode="edge")


def rmt(images, r, s, side, matrices, permutation):
    x = padded(images, r, s)
    b, c, h, w = x.shape
    across = w // s
    y = np.zeros_like(x)
    for i, target in enumerate(permutation):
        m = matrices[i % len(matrices)]
        at = np.s_[:, :, i // across * r:i // across * r + r, i % across * s:i % across * s + s]
        to = np.s_[:, :, target // across * r:target // across * r + r, target % across * s:target % across * s + s]
        block = x[at]
        if side == "right":
            y[to] = block @ m
        elif side == "left":
            y[to] = m @ block
        else:
            y[to] = (block.reshape(b, -1) @ m).reshape(block.shape)
    return y


def aes(images, r, s, keys, kind):
    x = padded(images, r, s)
    wide = np.kron(x, np.ones((1, 1, 4 // r, 4 // s), dtype=np.uint8)).astype(np.uint8)
    y = np.zeros_like(wide)
    across = wide.shape[3] // 4
    for b in range(wide.shape[0]):
        for c in range(wide.shape[1]):
            for i in range(wide.shape[2] // 4 * across):
                at = np.s_[b, c, i // across * 4:i // across * 4 + 4, i % across * 4:i % across * 4 + 4]
                key = keys[{"one": 0, "position": i, "channel": c}[kind]]
                out = subprocess.run(["openssl", "enc", f"-aes-{4 * len(key)}-ecb", "-nopad", "-K", key],
                                     input=wide[at].tobytes(), capture_output=True, check=True).stdout
                y[at] = np.frombuffer(out, dtype=np.uint8).reshape(4, 4)
    return y


cases = {"rmt": [], "aes": []}
for side, r, s, height, width, share, moved in [("right", 4, 4, 6, 7, False, True), ("left", 2, 3, 5, 7, False, False),
                                                ("full", 2, 2, 3, 4, True, True), ("full", 3, 2, 6, 4, False, True)]:
    images = rng.integers(0, 256, (2, 3, height, width)).astype(float)
    t = -(-height // r) * -(-width // s)
    n = {"right": s, "left": r, "full": 3 * r * s}[side]
    matrices = np.round(rng.standard_normal((1 if share else t, n, n)), 3)
    permutation = rng.permutation(t) if moved else np.arange(t)
    expected = rmt(images, r, s, side, matrices, permutation)
    cases["rmt"].append({"side": side, "block": [r, s], "images": images.ravel().tolist(), "shape": list(images.shape),
                         "matrices": matrices.ravel().tolist(), "n": n, "permutation": permutation.tolist(),
                         "expected": [round(v, 6) for v in expected.ravel()], "output": list(expected.shape[1:])})
for r, s, kind, hexes in [(4, 4, "one", 32), (2, 1, "one", 32), (2, 2, "channel", 64), (1, 4, "position", 32), (4, 2, "position", 64)]:
    images = rng.integers(0, 256, (2, 3, 5, 6)).astype(np.uint8)
    count = {"one": 1, "channel": 3, "position": -(-5 // r) * -(-6 // s)}[kind]
    keys = [rng.bytes(hexes // 2).hex() for _ in range(count)]
    expected = aes(images, r, s, keys, kind)
    cases["aes"].append({"unit": [r, s], "keys": kind, "key_bytes": keys, "shape": list(images.shape),
                         "images": images.ravel().tolist(), "expected": expected.ravel().tolist(), "output": list(expected.shape[1:])})
with open("transform_reference.json", "w") as out:
    json.dump(cases, out, separators=(",", ":"))
