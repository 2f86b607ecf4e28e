# SPDX-License-Identifier: Apache-2.0
"""Writes neuracrypt_reference.json: the encoder of NeuraCrypt with PyTorch's layers, in float64. Run it with Debian's
python3-torch in this folder; the tests read what it wrote."""
import json

import torch
import torch.nn.functional as F

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)


def rounded(*shape, scale=1.0):
    return (scale * torch.randn(*shape)).round(decimals=3)


def flat(t):
    return [round(v, 7) for v in t.reshape(-1).tolist()]


def case(channels, height, width, p, d, depth, samples):
    q = channels * p * p
    images = torch.randint(0, 256, (samples, channels, height, width)).double()
    first = rounded(d, channels, p, p, scale=q ** -0.5), rounded(d, scale=0.3)
    hidden = [(rounded(d, d, 1, 1, scale=d ** -0.5), rounded(d, scale=0.3)) for _ in range(max(depth, 0))]
    pad = (0, -width % p, 0, -height % p)
    x = F.conv2d(F.pad(images / 255, pad, mode="replicate"), *first, stride=p)
    n = x.shape[2] * x.shape[3]
    out = {"patch": p, "depth": depth, "shape": list(images.shape), "images": flat(images),
           "first_weight": flat(first[0]), "first_bias": flat(first[1]), "codes": [n, d]}
    if depth >= 0:
        x = F.relu(x)
        means, variances = [], []
        for weight, bias in hidden:
            x = F.conv2d(x, weight, bias)
            means.append(x.mean((0, 2, 3)))
            variances.append(x.var((0, 2, 3), unbiased=False))
            x = F.relu(F.batch_norm(x, None, None, training=True))
        positions, last = rounded(n, d), (rounded(d, d, scale=d ** -0.5), rounded(d, scale=0.3))
        x = F.linear(F.relu(x.flatten(2).transpose(1, 2) + positions), *last)
        out.update(positions=flat(positions), last_weight=flat(last[0]), last_bias=flat(last[1]))
        if depth > 0:
            out.update(hidden_weight=flat(torch.stack([w for w, _ in hidden])),
                       hidden_bias=flat(torch.stack([b for _, b in hidden])),
                       mean=flat(torch.stack(means)), variance=flat(torch.stack(variances)))
    else:
        x = x.flatten(2).transpose(1, 2)
    out["expected"] = flat(x)
    return out


with open("neuracrypt_reference.json", "w") as out:
    json.dump([case(3, 8, 8, 4, 12, 4, 3), case(1, 7, 6, 3, 8, 1, 2), case(3, 8, 8, 4, 10, 0, 2),
               case(3, 6, 6, 2, 9, -1, 2)], out, separators=(",", ":"))
