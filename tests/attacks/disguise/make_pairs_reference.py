#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes pairs_reference.json: rmt, least squares and Procrustes on three known pairs, by numpy."""
import json

import numpy as np

rng = np.random.default_rng(7)
M, C, SIZE, B, N = 3, 2, 16, 4, 25.0
T = (SIZE // B) ** 2


def blocks(images):  # [B,C,H,W] -> [t,B,C*r,s]
    b = images.reshape(len(images), C, SIZE // B, B, SIZE // B, B)
    return b.transpose(2, 4, 0, 1, 3, 5).reshape(T, len(images), C * B, B)


def images(b):
    n = b.shape[1]
    return b.reshape(SIZE // B, SIZE // B, n, C, B, B).transpose(2, 3, 0, 4, 1, 5).reshape(n, C, SIZE, SIZE)


pairs = rng.integers(0, 256, (M, C, SIZE, SIZE)).astype(float)
secret = rng.integers(0, 256, (2, C, SIZE, SIZE)).astype(float)
q, r = np.linalg.qr(rng.standard_normal((T, B, B)))
R = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
disguise = lambda x: (blocks(x) + N * rng.random(blocks(x).shape)) @ R[:, None]
y, queries = disguise(pairs), disguise(secret)
x = blocks(pairs) + N / 2
regression, procrustes = [], []
for i in range(T):
    a, b, z = x[i].reshape(-1, B), y[i].reshape(-1, B), queries[i]
    regression.append(z @ np.linalg.lstsq(b, a, rcond=None)[0] - N / 2)
    u, _, v = np.linalg.svd(a.T @ b)
    procrustes.append(z @ (u @ v).T - N / 2)
flat = lambda a: [round(float(v), 5) for v in np.asarray(a).reshape(-1)]
json.dump(
    {
        "pairs": flat(pairs),
        "pair_rows": flat(images(y)),
        "queries": flat(images(queries)),
        "regression": flat(images(np.array(regression)) / 255),
        "procrustes": flat(images(np.array(procrustes)) / 255),
        "secret": flat(secret),
        "matrices": flat(R),
    },
    open("pairs_reference.json", "w"),
)
