# SPDX-License-Identifier: Apache-2.0
"""PyTorch, measured beside ours: answers the commands that bench/cpu/main.cc writes, a line each.

  infer NETS BATCH DTYPE MODE   makes the nets ready      -> ok
  train BATCH DTYPE MODE        makes a training ready    -> ok
  decode BATCH DTYPE MODE       the same of a decoder     -> ok
  run SECONDS                   repeats it for so long    -> ok, the median seconds of one pass
  body FILE DTYPE               our weights and input     -> ok, relative error of our result against
                                float32, and of PyTorch's own in DTYPE
  training FILE DTYPE           the same, one step        -> ok, the same of loss and logits
  decoder FILE DTYPE            the same of a decoder     -> ok, the same of loss and images
Anything that goes wrong is answered with "error" and the reason.
"""
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

THREADS = int(sys.argv[1])
WIDTH = 64
RATE = 1e-4  # small: with 0.01, float32 moves the logits 8e-4 from where float64 does, ours and PyTorch's
torch.set_num_threads(THREADS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


class Body(nn.Module):
    """ResNet-18 between the pooled stem and the classifier; names as in nn/models."""

    def __init__(self):
        super().__init__()
        cin = WIDTH
        for stage in range(4):
            cout = WIDTH * 2**stage
            blocks = nn.Sequential(Block(cin, cout, 1 if stage == 0 else 2), Block(cout, cout, 1))
            self.add_module("stage%d" % (stage + 1), blocks)
            cin = cout

    def features(self, x):
        return self.stage4(self.stage3(self.stage2(self.stage1(x)))).mean((2, 3))

    def forward(self, x):
        return self.features(x)


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.bn(self.conv((x - 0.5) / 0.25))), 3, 2, 1)


class Classifier(Body):
    def __init__(self):
        super().__init__()
        self.stem = Stem()
        self.fc = nn.Sequential()
        self.fc.add_module("linear", nn.Linear(8 * WIDTH, 10))

    def forward(self, x):
        return self.fc(self.features(self.stem(x)))


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class Decoder(nn.Module):
    """The attacks' decoder (attacks/core/decoder.h) of features of width 16; names as there."""

    def __init__(self, channels=64, blocks=6):
        super().__init__()
        self.map = nn.Parameter(torch.zeros(1, 16, 16, 16))
        self.net = nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, channels, 3, 1, 1),
                                 *[ResidualBlock(channels) for _ in range(blocks)],
                                 nn.ConvTranspose2d(channels, 3, 6, 2, 2))

    def forward(self, x):
        return self.net(x + self.map) * 0.25 + 0.5


def ssim(a, b):
    t = torch.exp(-(torch.arange(11.0) - 5) ** 2 / (2 * 1.5**2))
    window = torch.outer(t, t) / t.sum() ** 2
    window = window.expand(3, 1, 11, 11).contiguous()

    def mean(x):
        return F.conv2d(x, window, groups=3)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean()


def read(path):
    with open(path, "rb") as f:
        shapes = []
        for line in iter(lambda: f.readline().decode().split(), ["end"]):
            shapes.append((line[0], [int(d) for d in line[1:]]))
        return {name: torch.from_numpy(np.fromfile(f, "<f4", int(np.prod(shape))).reshape(shape))
                for name, shape in shapes}


def load(net, entries):
    mine = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    ours = {k[6:]: v for k, v in entries.items() if k.startswith("state.") and ".normalize." not in k}
    assert mine.keys() == ours.keys(), sorted(mine.keys() ^ ours.keys())
    net.load_state_dict(ours, strict=False)
    return net


def error(got, want):
    return ((got.float() - want).abs().max() / want.abs().max()).item()


def ready(net, mode, batch, dtype):
    """The net in one of PyTorch's ways to serve, and what its input is converted with."""
    torch.jit.enable_onednn_fusion("fusion" in mode)
    fmt = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    net = net.eval().to(dtype=dtype, memory_format=fmt)
    example = torch.rand(batch, WIDTH, 16, 16).to(dtype=dtype, memory_format=fmt)
    if "jit" in mode:
        net = torch.jit.trace(net, example)
    if "freeze" in mode:
        net = torch.jit.freeze(net)
    if "optimize" in mode:
        net = torch.jit.optimize_for_inference(net)
    return net, lambda x: x.to(dtype=dtype, memory_format=fmt)


class Infer:
    def __init__(self, nets, batch, dtype, mode):
        self.x = torch.rand(batch, WIDTH, 16, 16)
        with torch.no_grad():
            made = [ready(Body(), mode, batch, dtype) for _ in range(nets)]
        self.nets = [net for net, _ in made]
        self.x = made[0][1](self.x)

    def step(self):
        with torch.no_grad():
            for net in self.nets:
                net(self.x)


class Train:
    def __init__(self, batch, dtype, mode, net=None):
        fmt = torch.channels_last if "channels_last" in mode else torch.contiguous_format
        self.net = (net or Classifier()).train().to(memory_format=fmt)
        self.dtype = dtype
        self.x = torch.rand(batch, 3, 32, 32).to(memory_format=fmt)
        self.y = torch.randint(0, 10, (batch,))
        self.forward = torch.jit.script(self.net) if "jit" in mode else self.net
        self.optimizer = torch.optim.SGD(self.net.parameters(), RATE, momentum=0.9, weight_decay=5e-4)

    def logits(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.forward(self.x)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.logits().float(), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Decode:
    def __init__(self, batch, dtype, mode, net=None):
        fmt = torch.channels_last if "channels_last" in mode else torch.contiguous_format
        self.net = (net or Decoder()).train().to(memory_format=fmt)
        self.dtype = dtype
        self.x = torch.rand(batch, 16, 16, 16).to(memory_format=fmt)
        self.y = torch.rand(batch, 3, 32, 32)
        self.forward = torch.jit.script(self.net) if "jit" in mode else self.net
        self.optimizer = torch.optim.Adam(self.net.parameters(), RATE)

    def images(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.forward(self.x).float()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        images = self.images()
        loss = 10 * F.mse_loss(images, self.y) + 1 - ssim(images, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def check_body(path, dtype):
    entries = read(path)
    with torch.no_grad():
        net = load(Body(), entries).eval()
        right = net(entries["input"])
        own = net.to(dtype)(entries["input"].to(dtype))
    return error(entries["output"], right), error(own, right)


def check_training(path, dtype, decoder=False):
    entries = read(path)

    def after_a_step(arithmetic):
        if decoder:
            job = Decode(1, arithmetic, "eager", load(Decoder(), entries))
            job.x, job.y = entries["input"], entries["images"]
        else:
            job = Train(1, arithmetic, "eager", load(Classifier(), entries))
            job.x, job.y = entries["input"], entries["labels"].long()
        loss = job.step()
        with torch.no_grad():
            return loss, job.images() if decoder else job.logits().float()

    def worst(loss, logits):
        return max(abs(loss - right_loss) / right_loss, error(logits, right))

    right_loss, right = after_a_step(torch.float32)
    return worst(entries["loss"].item(), entries["output"]), worst(*after_a_step(dtype))


def repeat(step, seconds):
    step()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


job = None
print("ok PyTorch %s" % torch.__version__, flush=True)
for line in sys.stdin:
    words = line.split()
    try:
        answer = ""
        if words[0] == "infer":
            job = None  # first let go of the last one's memory
            job = Infer(int(words[1]), int(words[2]), DTYPES[words[3]], words[4])
        elif words[0] == "train":
            job = None
            job = Train(int(words[1]), DTYPES[words[2]], words[3])
        elif words[0] == "decode":
            job = None
            job = Decode(int(words[1]), DTYPES[words[2]], words[3])
        elif words[0] == "run":
            answer = "%.9g" % repeat(job.step, float(words[1]))
        elif words[0] == "body":
            answer = "%.3g %.3g" % check_body(words[1], DTYPES[words[2]])
        elif words[0] == "training":
            answer = "%.3g %.3g" % check_training(words[1], DTYPES[words[2]])
        elif words[0] == "decoder":
            answer = "%.3g %.3g" % check_training(words[1], DTYPES[words[2]], decoder=True)
        print("ok", answer, flush=True)
    except Exception as e:
        print("error", " ".join(str(e).split())[:200], flush=True)
