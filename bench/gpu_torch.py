#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's speed at what ens-bench-gpu measures, as CSV: what,batch,who,sample,value,unit.

Bodies: ResNet-18 behind its pooled stem, batch norm folded, float16, channels last; training: the
whole network. Run by bench/gpu. `--device cpu` runs the eager modes, to test this script.
"""
import argparse
import sys
import time

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    def fold(self):
        self.conv1, self.bn1 = fuse_conv_bn_eval(self.conv1, self.bn1), nn.Identity()
        self.conv2, self.bn2 = fuse_conv_bn_eval(self.conv2, self.bn2), nn.Identity()
        if self.shortcut is not None:
            self.shortcut = fuse_conv_bn_eval(*self.shortcut)


class Body(nn.Module):
    def __init__(self, width):
        super().__init__()
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = []
        for stage in range(4):
            blocks += [Block(sizes[stage], sizes[stage + 1], 1 if stage == 0 else 2), Block(sizes[stage + 1], sizes[stage + 1], 1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x).mean((2, 3))


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.body = Body(width)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)))


def synchronize():
    if cuda:
        torch.cuda.synchronize()


def samples(what, batch, who, run):
    def many(count):
        begin = time.perf_counter()
        for _ in range(count):
            run()
        synchronize()
        return (time.perf_counter() - begin) * 1e3 / count

    many(3)
    count = max(1, min(2000, int(args.sample_ms / many(3))))
    for i in range(args.samples):
        print(f"{what},{batch},{who},{i},{many(count):.6g},ms", flush=True)


def captured(work):
    """`work` as a CUDA graph, after some runs on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def on_streams(works, streams):
    """Each work on a stream of its own, begun after and ended before what is around."""
    here = torch.cuda.current_stream()
    for stream, work in zip(streams, works):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            work()
    for stream in streams:
        here.wait_stream(stream)


def serve():
    dtype = torch.float16 if cuda else torch.float32
    bodies = []
    for _ in range(args.nets):
        body = Body(args.width).eval()
        for block in body.blocks:
            block.fold()
        bodies.append(body.to(device, dtype).to(memory_format=torch.channels_last))
    streams = [torch.cuda.Stream() for _ in bodies] if cuda else []
    with torch.no_grad():
        for batch in args.batches:
            x = torch.rand(batch, args.width, 16, 16, device=device).to(dtype).to(memory_format=torch.channels_last)
            works = [lambda body=body: body(x) for body in bodies]
            eager = lambda: [work() for work in works]
            samples("serve", batch, "eager", eager)
            if cuda:
                samples("serve", batch, "graph", captured(eager))
                samples("serve", batch, "graph+streams", captured(lambda: on_streams(works, streams)))


def training_step(batch, dtype):
    net = Net(args.width).to(device).to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=layout)
    labels = torch.randint(0, 10, (batch,), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()

    return step


def train():
    for batch in args.train_batches:
        samples("train", batch, "eager tf32", training_step(batch, None))
        samples("train", batch, "eager", training_step(batch, half))
        if cuda:
            samples("train", batch, "graph", captured(training_step(batch, half)))
    batch = args.train_batches[0]
    steps = [training_step(batch, half) for _ in range(args.nets)]
    samples("train_all", batch, "eager", lambda: [step() for step in steps])
    if cuda:
        streams = [torch.cuda.Stream() for _ in steps]
        samples("train_all", batch, "graph", captured(lambda: [step() for step in steps]))
        samples("train_all", batch, "graph+streams", captured(lambda: on_streams(steps, streams)))


def numbers(text):
    return [int(n) for n in text.split(",")]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--device", default="cuda")
parser.add_argument("--nets", type=int, default=10)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--samples", type=int, default=9)
parser.add_argument("--sample-ms", type=float, default=30)
parser.add_argument("--batches", type=numbers, default=[1, 8, 32, 128, 512])
parser.add_argument("--train-batches", type=numbers, default=[128, 512])
parser.add_argument("--only", default="serve,train")
args = parser.parse_args()
device = torch.device(args.device)
cuda = device.type == "cuda"
half = torch.bfloat16 if cuda else None
layout = torch.channels_last if cuda else torch.contiguous_format
if cuda and not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU")
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
print(f"# PyTorch {torch.__version__}" + (f", CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if cuda else ""))
for part, work in (("serve", serve), ("train", train)):
    if part in args.only.split(","):
        try:
            work()
        except RuntimeError as error:  # the other part may still work
            print(f"# {part}: {error}".replace("\n", " "))
