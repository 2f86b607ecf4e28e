# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of exchange_test.cc: a network of torchvision's, its weights, and what it computes.

  exchange.py make NET SIZE HIDDEN FOLDER   writes net.safetensors, and example.safetensors with 8 images [0, 1] and
                                            their logits
  exchange.py load NET HIDDEN FOLDER FILE   loads FILE strictly into a fresh network; its logits for the images must be
                                            those of the example to 1e-4, and ResNet's weights the same bits
"""
import json
import struct
import sys

import numpy as np
import torch
import torchvision

MEAN, STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def save(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + data)


def load(path):
    with open(path, "rb") as file:
        raw = file.read()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + at for at in entry["data_offsets"])
            values = np.frombuffer(raw[begin:end], {"F32": "<f4", "I64": "<i8"}[entry["dtype"]])
            tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


def make(net, hidden):
    model = getattr(torchvision.models, net)(num_classes=10)
    if hidden:
        model.classifier[0] = torch.nn.Linear(512 * 49, hidden)
        model.classifier[3] = torch.nn.Linear(hidden, hidden)
        model.classifier[6] = torch.nn.Linear(hidden, 10)
    for module in model.modules():  # as after a training: fresh batch norms are the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.normal_(0, 0.2)
        elif getattr(module, "bias", None) is not None:
            module.bias.data.normal_(0, 0.2)
    return model.eval()


def logits(model, images):
    with torch.no_grad():
        return model((images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STDDEV).view(3, 1, 1))


torch.manual_seed(1)
torch.set_num_threads(1)
if sys.argv[1] == "make":
    net, size, hidden, folder = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    model = make(net, hidden)
    save(folder + "/net.safetensors", model.state_dict())
    images = torch.rand(8, 3, size, size)
    save(folder + "/example.safetensors", {"images": images, "logits": logits(model, images)})
else:
    net, hidden, folder, path = sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
    model, state = make(net, hidden), load(path)
    model.load_state_dict(state, strict=True)
    example = load(folder + "/example.safetensors")
    got, want = logits(model, example["images"]), example["logits"]
    error = ((got - want).abs().max() / want.abs().max()).item()
    assert error < 1e-4, "the logits differ by %g" % error
    if net.startswith("resnet"):
        for name, tensor in load(folder + "/net.safetensors").items():
            assert name.endswith("num_batches_tracked") or torch.equal(state[name], tensor), name
