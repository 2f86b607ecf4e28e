#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes data/seq2seq.bin: a whole translation network of PyTorch's nn.Transformer with embeddings,
positions and generator as in PyTorch's tutorial; made with PyTorch 1.13 (see make_torch_reference.py).

The encoder takes its slow path, which neither drops padded columns nor differs there: training mode
without dropout, and enable_nested_tensor off.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from make_torch_reference import File, init, pattern

S, T, V, W, D, H, HIDDEN, PAD = 7, 6, 11, 13, 12, 3, 20, 1
SOURCE = [[2, 4, 9, 5, 10, 7, 3], [2, 8, 4, 3, PAD, PAD, PAD], [2, 3, PAD, PAD, PAD, PAD, PAD]]
TARGET = [[2, 5, 7, 12, 4, 6], [2, 9, 9, PAD, PAD, PAD], [2, PAD, PAD, PAD, PAD, PAD]]
NEXT = [[5, 7, 12, 4, 6, 3], [9, 9, 3, PAD, PAD, PAD], [3, PAD, PAD, PAD, PAD, PAD]]


def positions(length):
    p = torch.arange(length).reshape(-1, 1)
    angle = p * torch.exp(-torch.arange(0, D, 2) * math.log(10000) / D)
    out = torch.zeros(length, D)
    out[:, 0::2], out[:, 1::2] = torch.sin(angle), torch.cos(angle)
    return out


def network(out, name, norm_first, activation):
    net = nn.Transformer(D, H, 2, 2, HIDDEN, 0.0, activation, batch_first=True, norm_first=norm_first)
    net.encoder.enable_nested_tensor = False
    init(net, name)
    source_embedding = pattern(name + ".source", (V, D)).requires_grad_()
    target_embedding = pattern(name + ".target", (W, D)).requires_grad_()
    generator = nn.Linear(D, W)
    init(generator, name + ".generator")
    source, target, after = torch.tensor(SOURCE), torch.tensor(TARGET), torch.tensor(NEXT)
    x = F.embedding(source, source_embedding) * math.sqrt(D) + positions(S)
    y = F.embedding(target, target_embedding) * math.sqrt(D) + positions(T)
    later = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    z = net(x, y, tgt_mask=later, src_key_padding_mask=source == PAD, tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD)
    logits = generator(z)
    loss = F.cross_entropy(logits.reshape(-1, W), after.reshape(-1), ignore_index=PAD, label_smoothing=0.1)
    loss.backward()
    kept = (after != PAD).reshape(-1, 1)
    out.add(name + ".logits", logits.reshape(-1, W) * kept)  # padded positions are of no meaning
    out.add(name + ".loss", loss.reshape(1))
    for key, p in net.named_parameters():
        out.add("%s.grad.%s" % (name, key), p.grad)
    out.add(name + ".generator_grad", generator.weight.grad)
    out.add(name + ".source_grad", source_embedding.grad)
    out.add(name + ".target_grad", target_embedding.grad)


file = File("seq2seq.bin")
network(file, "post", False, "relu")
network(file, "pre", True, "gelu")
file.write()
