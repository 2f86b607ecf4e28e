#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the stored PyTorch references in data/ next to this file (needs torch and numpy).

Inputs, weights and directions are not stored: both sides make them from their names with pattern().
Everything is computed in float64 and stored as float32. File format: see tests/support/reference.h.
Made with PyTorch 1.13.
"""
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


def pattern(name, shape):
    """Numbers in [-1, 1): a linear congruential sequence seeded by the FNV-1a hash of the name."""
    x = 2166136261
    for byte in name.encode():
        x = (x ^ byte) * 16777619 % 2**32
    out = np.empty(int(np.prod(shape)))
    for i in range(out.size):
        x = (x * 1664525 + 1013904223) % 2**32
        out[i] = (x >> 8) / 2**23 - 1
    return torch.from_numpy(out.reshape(shape).astype(np.float32).astype(np.float64))


def init(module, prefix):
    """Fills parameters and buffers from their names, each kind in its usual range."""
    with torch.no_grad():
        for name, t in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            u = pattern(prefix + "." + name, tuple(t.shape))
            if name.endswith("running_var"):
                u = 1 + 0.5 * u
            elif t.dim() == 1 and name.endswith("weight"):
                u = 1 + 0.2 * u
            elif t.dim() == 1:
                u = 0.2 * u
            else:
                u = u * float(np.float32(np.sqrt(6.0 / (t.numel() / t.shape[0]))))
            t.copy_(u.float().double())


class File:
    def __init__(self, name):
        self.path = os.path.join(HERE, "data", name)
        self.entries = []

    def add(self, name, value):
        if torch.is_tensor(value):
            value = value.detach().numpy()
        self.entries.append((name, np.asarray(value, dtype="<f4")))

    def write(self):
        with open(self.path, "wb") as f:
            for name, v in self.entries:
                f.write((" ".join([name] + [str(d) for d in v.shape]) + "\n").encode())
            f.write(b"end\n")
            for _, v in self.entries:
                f.write(v.tobytes())
        print(self.path, os.path.getsize(self.path), "bytes,", len(self.entries), "entries")


def count(module):
    n = sum(p.numel() for p in module.parameters())
    return [n // 10**6, n % 10**6]  # float32 counts exactly to 2^24 only


def flops(module, size):
    """Of convolutions and linear layers for one image; a multiply-add counts as 2."""
    total = []

    def hook(m, _, y):
        total.append(2 * m.weight.numel() * (y[0, 0].numel() if y.dim() == 4 else 1))

    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            m.register_forward_hook(hook)
    module.eval()(torch.zeros(1, 3, size, size))
    return [sum(total) // 10**6, sum(total) % 10**6]


# ---- the networks, written down a second time; names as in nn/modules and nn/models


class Downsample(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.downsample = Downsample(cin, cout, stride) if stride != 1 or cin != cout else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Named(nn.Sequential):
    """Sequential of (name, module) pairs; a name of None takes no place among the parameters."""

    def __init__(self, *parts):
        super().__init__()
        for i, (name, m) in enumerate(parts):
            self.add_module(name or "unnamed%d" % i, m)


class Normalize(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 0.25


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def resnet(width, classes, stem_pool, blocks=(2, 2, 2, 2)):
    stem = [(None, Normalize()), ("conv", nn.Conv2d(3, width, 3, 1, 1, bias=False)),
            ("bn", nn.BatchNorm2d(width)), (None, nn.ReLU())]
    if stem_pool:
        stem.append((None, nn.MaxPool2d(3, 2, 1)))
    cells = [("stem", Named(*stem))]
    cin = width
    for stage in range(4):
        cout = width * 2**stage
        parts = [("0", Block(cin, cout, 1 if stage == 0 else 2))]
        parts += [(str(i), Block(cout, cout, 1)) for i in range(1, blocks[stage])]
        if stage == 3:
            parts.append((None, Pooled()))
        cells.append(("stage%d" % (stage + 1), Named(*parts)))
        cin = cout
    cells.append(("fc", Named(("linear", nn.Linear(cin, classes)))))
    return Named(*cells)


VGG16 = [1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"]
VGG19 = [1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"]


def vgg(width, classes, size, layers=VGG16):
    cells = []
    cin, index = 3, 0
    for v in layers:
        if v == "M":
            cells[-1][1].append((None, nn.MaxPool2d(2, 2)))
            continue
        index += 1
        cell = [(None, Normalize())] if index == 1 else []
        cell += [("conv", nn.Conv2d(cin, width * v, 3, 1, 1, bias=False)),
                 ("bn", nn.BatchNorm2d(width * v)), (None, nn.ReLU())]
        cells.append(("conv%d" % index, cell))
        cin = width * v
    features = cin * (size // 32)**2
    cells += [("fc1", [(None, nn.Flatten()), ("linear", nn.Linear(features, cin)),
                       (None, nn.ReLU()), (None, nn.Dropout(0.5))]),
              ("fc2", [("linear", nn.Linear(cin, cin)), (None, nn.ReLU()),
                       (None, nn.Dropout(0.5))]),
              ("fc3", [("linear", nn.Linear(cin, classes))])]
    return Named(*[(name, Named(*cell)) for name, cell in cells])


def mobilenet(width, classes, stride):
    cells = [("stem", Named((None, Normalize()),
                            ("conv", nn.Conv2d(3, width, 3, stride, 1, bias=False)),
                            ("bn", nn.BatchNorm2d(width)), (None, nn.ReLU())))]
    cin = width
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    for i, s in enumerate(strides):
        cout = cin * 2 if s == 2 or i == 0 else cin
        parts = [("depthwise", nn.Conv2d(cin, cin, 3, s, 1, groups=cin, bias=False)),
                 ("bn1", nn.BatchNorm2d(cin)), (None, nn.ReLU()),
                 ("pointwise", nn.Conv2d(cin, cout, 1, bias=False)),
                 ("bn2", nn.BatchNorm2d(cout)), (None, nn.ReLU())]
        if i == 12:
            parts.append((None, Pooled()))
        cells.append(("block%d" % (i + 1), Named(*parts)))
        cin = cout
    cells.append(("fc", Named(("linear", nn.Linear(cin, classes)))))
    return Named(*cells)


# ---- layers


class Tokens(nn.Module):
    def __init__(self, width, tokens):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(1 + tokens, width))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + self.positions


class TokensInNoOrder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        x = x.transpose(0, 1)  # PyTorch's function wants the tokens first
        y, _ = F.multi_head_attention_forward(
            x, x, x, x.shape[-1], self.heads, self.qkv.weight, self.qkv.bias, None, None, False, 0.0,
            self.proj.weight, self.proj.bias)
        return y.transpose(0, 1)


class Transformer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class First(nn.Module):
    def forward(self, x):
        return x[:, 0]


def vit(width, classes, size):
    """size: of the pictures, or (codes, elements of each)."""
    d = 3 * width
    if isinstance(size, tuple):
        first = ("linear", nn.Linear(size[1], d)), ("tokens", TokensInNoOrder(d))
    else:
        first = ("conv", nn.Conv2d(3, d, 4, 4)), ("tokens", Tokens(d, (size // 4) ** 2))
    parts = [("patches", Named(("normalize", Normalize()), *first))]
    parts += [("block%d" % i, nn.Sequential(Transformer(d, 3, 2 * d))) for i in range(1, 5)]
    parts.append(("fc", Named(("norm", nn.LayerNorm(d)), ("first", First()), ("linear", nn.Linear(d, classes)))))
    return Named(*parts)


def add_layer(out, name, module, shape, train=True, passes=1):
    init(module, name)
    module.train(train)
    for i in range(passes):  # more than one: running statistics move several times
        x = pattern("%s.x%d" % (name, i), shape).requires_grad_()
        module.zero_grad()
        y = module(x)
        (y * pattern("%s.dy" % name, tuple(y.shape))).sum().backward()
    out.add(name + ".y", y)
    out.add(name + ".dx", x.grad)
    for key, p in module.named_parameters():
        out.add("%s.grad.%s" % (name, key), p.grad)
    for key, b in module.named_buffers():
        if not key.endswith("num_batches_tracked"):
            out.add("%s.after.%s" % (name, key), b)


def layers():
    out = File("layers.bin")
    add_layer(out, "conv", nn.Conv2d(3, 8, 3, 2, 1), (2, 3, 7, 7))
    add_layer(out, "conv_groups", nn.Conv2d(6, 12, 3, 1, 1, groups=3, bias=False), (2, 6, 5, 5))
    add_layer(out, "conv_dilated", nn.Conv2d(5, 4, 3, 1, 2, dilation=2), (1, 5, 7, 6))
    add_layer(out, "conv_1x1", nn.Conv2d(16, 24, 1, 2, bias=False), (2, 16, 4, 4))
    add_layer(out, "deconv", nn.ConvTranspose2d(8, 5, 4, 2, 1), (2, 8, 3, 4))
    add_layer(out, "deconv_output_padding",
              nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2, bias=False),
              (1, 6, 4, 3))
    add_layer(out, "linear", nn.Linear(20, 7), (5, 20))
    add_layer(out, "linear_no_bias", nn.Linear(16, 24, bias=False), (3, 16))
    add_layer(out, "bn_train", nn.BatchNorm2d(5), (4, 5, 3, 3), passes=3)
    add_layer(out, "bn_train_16", nn.BatchNorm2d(16), (2, 16, 4, 4), passes=2)
    add_layer(out, "bn_eval", nn.BatchNorm2d(5), (4, 5, 3, 3), train=False)
    add_layer(out, "bn_rows", nn.BatchNorm1d(7), (6, 7), passes=2)

    class NormRelu(nn.BatchNorm2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    add_layer(out, "bn_relu", NormRelu(6), (3, 6, 4, 4))
    add_layer(out, "bn_relu_eval", NormRelu(6), (3, 6, 4, 4), train=False)
    add_layer(out, "max_pool", nn.MaxPool2d(3, 2, 1), (2, 3, 7, 6))
    add_layer(out, "avg_pool", nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 7, 6))
    add_layer(out, "global_avg_pool", Pooled(), (3, 5, 4, 3))
    add_layer(out, "flatten", nn.Flatten(), (2, 3, 2, 4))
    add_layer(out, "leaky_relu", nn.LeakyReLU(0.2), (4, 9))
    add_layer(out, "sigmoid", nn.Sigmoid(), (4, 9))
    add_layer(out, "tanh", nn.Tanh(), (4, 9))
    add_layer(out, "normalize", Normalize(), (2, 3, 4, 4))
    for suffix, train in (("", True), ("_eval", False)):
        add_layer(out, "block" + suffix, Block(8, 8, 1), (3, 8, 5, 5), train=train)
        add_layer(out, "block_down" + suffix, Block(8, 12, 2), (3, 8, 6, 6), train=train)
    out.write()


# ---- losses


def losses():
    out = File("losses.bin")

    def add(name, f, *shapes):
        operands = [pattern("%s.%d" % (name, i), s).requires_grad_() for i, s in enumerate(shapes)]
        value = f(*operands)
        if value.dim() == 0:
            value.backward()
        else:
            (value * pattern(name + ".dy", tuple(value.shape))).sum().backward()
        out.add(name + ".value", value.reshape(-1))
        for i, o in enumerate(operands):
            out.add("%s.grad%d" % (name, i), o.grad)

    labels = torch.tensor([3, 0, 9, 9, 5, 1])
    add("cross_entropy", lambda x: F.cross_entropy(8 * x, labels), (6, 10))
    add("cosine_similarity",
        lambda a, b: F.cosine_similarity(a.flatten(1), b.flatten(1)), (4, 3, 5, 5), (4, 3, 5, 5))
    add("mse", F.mse_loss, (2, 3, 4, 4), (2, 3, 4, 4))
    add("l1", F.l1_loss, (2, 3, 4, 4), (2, 3, 4, 4))
    add("total_variation",
        lambda x: ((x[..., 1:] - x[..., :-1])**2).mean() + ((x[..., 1:, :] - x[..., :-1, :])**2).mean(),
        (2, 3, 5, 7))
    out.write()


# ---- whole networks


def networks():
    out = File("networks.bin")
    for width in (64, 16):
        for classes in (10, 100):
            out.add("count.resnet18.%d.%d" % (width, classes), count(resnet(width, classes, True)))
            out.add("count.vgg16.%d.%d" % (width, classes), count(vgg(width, classes, 32)))
    out.add("count.vgg16_64px.64.10", count(vgg(64, 10, 64)))
    out.add("flops.resnet18", flops(resnet(64, 10, False), 32))
    out.add("flops.resnet18_pool", flops(resnet(64, 10, True), 32))
    out.add("flops.vgg16", flops(vgg(64, 10, 32), 32))
    others = {"resnet34": resnet(64, 10, True, (3, 4, 6, 3)), "vgg19": vgg(64, 10, 32, VGG19),
              "mobilenet": mobilenet(32, 10, 2)}
    for name, net in others.items():
        out.add("count." + name, count(net))
        out.add("flops." + name, flops(net, 32))

    def add(name, net, size, train):
        init(net, name)
        net.train(train)
        shape = (4, *size) if isinstance(size, tuple) else (4, 3, size, size)
        x = (0.5 + 0.5 * pattern(name + ".x", shape)).requires_grad_()
        logits = net(x)
        loss = F.cross_entropy(logits, torch.tensor([1, 7, 3, 0]))
        loss.backward()
        out.add(name + ".logits", logits)
        out.add(name + ".loss", loss.reshape(1))
        out.add(name + ".dx", x.grad[:1])
        for key, p in net.named_parameters():
            direction = pattern("direction." + key, tuple(p.shape))
            out.add("%s.grad.%s" % (name, key), [p.grad.norm().item(), (p.grad * direction).sum().item()])
        for key, b in net.named_buffers():
            if train and not key.endswith("num_batches_tracked"):
                out.add("%s.after.%s" % (name, key), b)

    add("resnet18_eval", resnet(8, 10, True), 32, False)
    add("resnet18_train", resnet(8, 10, False), 16, True)
    add("vgg16_eval", vgg(8, 10, 32), 32, False)
    add("resnet34_eval", resnet(4, 10, True, (3, 4, 6, 3)), 32, False)
    add("vgg19_eval", vgg(4, 10, 32, VGG19), 32, False)
    add("mobilenet_eval", mobilenet(4, 10, 2), 32, False)
    add("mobilenet_train", mobilenet(4, 10, 1), 32, True)
    add("vit_train", vit(8, 10, 16), 16, True)
    add("vit_eval", vit(8, 10, 32), 32, False)
    add("vit_codes_train", vit(8, 10, (9, 20)), (9, 20), True)
    add("vit_codes_eval", vit(8, 10, (16, 12)), (16, 12), False)
    out.write()


# ---- ten training steps


def training():
    out = File("training.bin")
    steps = 10
    labels = [torch.tensor([0, 4, 2, 2, 1, 3, 0, 4]), torch.tensor([1, 1, 3, 0, 2, 4, 4, 0])]
    images = [pattern("train.x%d" % i, (8, 3, 8, 8)) for i in range(2)]
    optimizers = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-3),
        "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=1e-2),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        "sgd_plain": lambda p: torch.optim.SGD(p, 0.1),
        "sgd_momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    }
    schedules = {
        "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, o.param_groups[0]["lr"], total_steps=steps, pct_start=0.3, cycle_momentum=False),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps),
        "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        "constant": lambda o: torch.optim.lr_scheduler.StepLR(o, 10**6, 1.0),
    }
    for opt_name, make_optimizer in optimizers.items():
        for sched_name, make_schedule in schedules.items():
            if (sched_name == "constant") != opt_name.startswith("sgd_"):
                continue
            name = "%s.%s" % (opt_name, sched_name)
            net = Named(("conv", nn.Conv2d(3, 8, 3, 1, 1, bias=False)), ("bn", nn.BatchNorm2d(8)),
                        (None, nn.ReLU()), ("block", Block(8, 12, 2)), (None, Pooled()),
                        ("fc", nn.Linear(12, 5)))
            init(net, "train")
            optimizer = make_optimizer(net.parameters())
            schedule = make_schedule(optimizer)
            losses, rates = [], []
            for step in range(steps):
                loss = F.cross_entropy(net(images[step % 2]), labels[step % 2])
                optimizer.zero_grad()
                loss.backward()
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            out.add(name + ".losses", losses)
            out.add(name + ".rates", rates)
            for key, t in net.state_dict().items():
                if not key.endswith("num_batches_tracked"):
                    out.add("%s.final.%s" % (name, key), t)

    # Longer schedules, the learning rates alone.
    def rates(total, make):
        o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
        s = make(o, total)
        result = []
        for _ in range(total):
            result.append(o.param_groups[0]["lr"])
            o.step()
            if len(result) < total:
                s.step()
        return result

    one = torch.optim.lr_scheduler.OneCycleLR
    for total in (7, 100, 333):
        out.add("rates.onecycle.%d" % total,
                rates(total, lambda o, n: one(o, 0.3, total_steps=n, pct_start=0.3,
                                              cycle_momentum=False)))
        if total > 10:  # below, PyTorch's rising phase is empty
            out.add("rates.onecycle_warmup10.%d" % total,
                    rates(total, lambda o, n: one(o, 0.3, total_steps=n, pct_start=0.1,
                                                  cycle_momentum=False)))
        out.add("rates.cosine.%d" % total,
                rates(total, lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n)))
        out.add("rates.step.%d" % total,
                rates(total, lambda o, n: torch.optim.lr_scheduler.StepLR(o, 5, 0.7)))
    out.write()


if __name__ == "__main__":
    os.makedirs(os.path.join(HERE, "data"), exist_ok=True)
    layers()
    losses()
    networks()
    training()
