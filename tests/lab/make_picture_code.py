# SPDX-License-Identifier: Apache-2.0
"""The stored values of certificate_test.cc, with numpy: /usr/bin/python3 make_picture_code.py"""
import numpy as np

S, C, N = 16, 3, 200
i, c, y, x = np.meshgrid(np.arange(N), np.arange(C), np.arange(S), np.arange(S), indexing="ij")
value = (128 + 40 * np.sin(1.7 * i + 0.31 * y * (1 + i % 5) + 0.2 * c)
         + 25 * np.cos(0.9 * i + 0.45 * x * (1 + i % 7) - 0.6 * c)
         + 6 * np.sin(12.9898 * x + 78.233 * y + 37.7 * i + 5.1 * c))
images = np.floor(value + 0.5) / 255
assert images.min() > 0.1 and images.max() < 0.9
colours = np.cov(images.transpose(1, 0, 2, 3).reshape(C, -1), bias=True)
axes = np.linalg.eigh(colours)[1].T
dct = np.array([[np.sqrt((1 if f == 0 else 2) / S) * np.cos(np.pi * f * (t + 0.5) / S) for t in range(S)]
                for f in range(S)])
z = np.einsum("gy,ck,nkyx,fx->ncgf", dct, axes, images, dct).reshape(N, -1)
v = np.maximum(z.var(axis=0), 1e-12)
order, m = np.sort(v)[::-1], np.arange(1, v.size + 1)
for bits in (16, 64, 200):
    bound = (m / v.size * 2 ** ((np.cumsum(np.log2(order)) - 2 * bits) / m)).max()
    entropy = 2 ** ((np.log2(v).sum() - 2 * bits) / v.size)
    low, high = 1e-15, v.max()
    for _ in range(200):
        level = np.sqrt(low * high)
        low, high = (level, high) if np.log2(np.maximum(v / level, 1)).sum() / 2 > bits else (low, level)
    print(f"{{{bits}, {-10 * np.log10(bound):.6f}, {entropy:.8e}, {np.minimum(v, high).mean():.8e}}},")
