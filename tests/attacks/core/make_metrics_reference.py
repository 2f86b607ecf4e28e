#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes metrics_reference.json (scores by scikit-image) and metrics_reference.bin (the images).

Made with scikit-image 0.19.3 and numpy 1.24.2. A pixel is a little-endian uint16 v that stands for
(v - 16384) / 32768, so that values outside [0, 1] can be stored exactly. Run in this folder.
"""
import json

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

rng = np.random.default_rng(2024)


def smooth(batch, channels, size):
    """Pictures with structure: sums of waves, scaled to [0, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    images = np.zeros((batch, channels, size, size))
    for image in images.reshape(-1, size, size):
        for _ in range(6):
            fx, fy, phase = rng.uniform(-6, 6), rng.uniform(-6, 6), rng.uniform(0, 7)
            image += rng.normal() * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
        image -= image.min()
        image /= image.max()
    return images


def quantised(images):
    return np.round(images * 32768 + 16384).astype("<u2")


def values(stored):
    return (stored.astype(np.float64) - 16384) / 32768


def finite(value):
    return float(value) if np.isfinite(value) else None


def cases():
    yield "random", rng.uniform(size=(2, 3, 32, 32)), rng.uniform(size=(2, 3, 32, 32))
    x = smooth(3, 3, 32)
    noise = rng.normal(size=x.shape) * np.array([0.01, 0.05, 0.2]).reshape(3, 1, 1, 1)
    yield "noisy", x, np.clip(x + noise, 0, 1)
    yield "out of range", x[:1], np.clip(1.6 * x[:1] - 0.3, -0.4, 1.4)
    yield "negative", x[:1], 1 - x[:1]
    yield "constant reconstruction", x[:1], np.full_like(x[:1], 0.5)
    yield "constant truth", np.full((1, 3, 16, 16), 0.25), smooth(1, 3, 16)
    yield "both constant", np.full((1, 1, 16, 16), 0.25), np.full((1, 1, 16, 16), 0.5)
    yield "identical", x[:1], x[:1]
    g = smooth(1, 1, 28)
    yield "grey", g, np.clip(g + rng.normal(size=g.shape) * 0.1, 0, 1)
    g = smooth(1, 1, 64)
    yield "64x64", g, np.clip(0.8 * g + rng.normal(size=g.shape) * 0.02, 0, 1)
    g = smooth(1, 2, 11)
    yield "smallest", g, g[:, ::-1]
    g = smooth(1, 1, 24)[:, :, :12, :]
    yield "oblong", g, np.clip(g + rng.normal(size=g.shape) * 0.1, 0, 1)


out, pixels = [], []
for name, truth, reconstruction in cases():
    stored = quantised(truth), quantised(reconstruction)
    pixels += [stored[0].tobytes(), stored[1].tobytes()]
    scores = {"ssim": [], "psnr": [], "mse": [], "he19_ssim": [], "he19_psnr": []}
    for a, b in zip(values(stored[0]), values(stored[1])):
        with np.errstate(divide="ignore", invalid="ignore"):
            scores["ssim"].append(finite(structural_similarity(
                a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                data_range=1, channel_axis=0)))
            scores["psnr"].append(finite(peak_signal_noise_ratio(a, b, data_range=1)))
            scores["mse"].append(float(np.mean((a - b) ** 2)))
            c, d = np.clip(a, 0, 1), np.clip(b, 0, 1)
            flat = d.max() == d.min()  # range 0: scikit-image divides 0 by 0
            scores["he19_ssim"].append(None if flat else finite(structural_similarity(
                c, d, data_range=d.max() - d.min(), channel_axis=0)))
            scores["he19_psnr"].append(finite(peak_signal_noise_ratio(c, d, data_range=1)))
    out.append({"name": name, "shape": list(truth.shape), **scores})

with open("metrics_reference.json", "w") as file:
    json.dump(out, file, indent=1)
    file.write("\n")
with open("metrics_reference.bin", "wb") as file:
    file.write(b"".join(pixels))
