#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes data/torchvision.bin next to this file: names, shapes and logits of torchvision's networks.

Needs torch, torchvision and numpy. Weights are not stored: both sides make them from their names, as
tests/nn/modules/make_torch_reference.py does. File format: see tests/support/reference.h. Made with PyTorch 1.13
and torchvision 0.14.
"""
import os
import sys

import numpy as np
import torch
import torchvision

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "modules"))
from make_torch_reference import File, init  # noqa: E402

import make_torch_reference  # noqa: E402


def pattern(name, shape):
    """make_torch_reference.pattern(), for millions of numbers: x[2i], x[2i+1] follow from x[i]'s step twice as far."""
    x = 2166136261
    for byte in name.encode():
        x = (x ^ byte) * 16777619 % 2**32
    count = int(np.prod(shape))
    out = np.array([(x * 1664525 + 1013904223) % 2**32], dtype=np.uint32)
    a, c = 1664525, 1013904223  # the step over as many numbers as there are
    while out.size < count:
        out = np.concatenate([out, out * np.uint32(a) + np.uint32(c)])
        a, c = a * a % 2**32, (a * c + c) % 2**32
    out = (out[:count] >> 8) / 2**23 - 1
    return torch.from_numpy(out.reshape(shape).astype(np.float32).astype(np.float64))


make_torch_reference.pattern = pattern
torch.set_default_dtype(torch.float64)
file = File("torchvision.bin")
file.path = os.path.join(HERE, "data", "torchvision.bin")
HIDDEN = 24  # of VGG, in place of 4096
with torch.no_grad():
    for name, sizes in (("resnet18", (64,)), ("resnet34", (64,)), ("vgg16_bn", (32, 96, 224))):
        net = getattr(torchvision.models, name)(num_classes=10)
        if name == "vgg16_bn":
            net.classifier[0] = torch.nn.Linear(512 * 49, HIDDEN)
            net.classifier[3] = torch.nn.Linear(HIDDEN, HIDDEN)
            net.classifier[6] = torch.nn.Linear(HIDDEN, 10)
        init(net, name)
        net.eval()
        for key, value in net.state_dict().items():
            file.add("%s.shape.%s" % (name, key), np.array(value.shape, dtype="<f4"))
        for size in sizes:
            images = 0.5 + 0.5 * pattern("%s.x%d" % (name, size), (2, 3, size, size))
            file.add("%s.logits%d" % (name, size), net((images - 0.5) / 0.25))
file.write()
