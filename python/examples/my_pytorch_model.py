# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # My PyTorch model
# Torchvision's ResNet-18s, trained in PyTorch, are cut behind the first cell, attacked, made an ensemble, and compared with
# the strongest protection there is: features of limited power with fresh noise, of which is proven what they can tell
# (docs/channel.md). On `shapes` and with short trainings: the steps are those of a real study, the numbers are not.

# %%
import copy
from typing import Any

import torch
import torchvision

import ensembler as ens

IMAGES, EPOCHS, CHANNELS, BLOCKS = 800, 2, 8, 1  # more of each for numbers that mean something: docs/python.md

torch.manual_seed(0)
train, test = ens.Dataset.load("shapes", limit=IMAGES), ens.Dataset.load("shapes", test=True, limit=200)
mean, std = train.x.mean(axis=(0, 2, 3)).tolist(), train.x.std(axis=(0, 2, 3)).tolist()
SETTINGS: dict[str, Any] = {
    "data.name": "shapes", "data.train_limit": IMAGES, "data.test_limit": 200, "data.public_images": IMAGES // 5,
    "attack.public_images": IMAGES // 5, "attack.scored_images": 32, "attack.reference_images": 0,
    "attack.decoder.channels": CHANNELS, "attack.decoder.blocks": BLOCKS, "attack.decoder.epochs": 3 * EPOCHS,
    "stage2.epochs": EPOCHS,
}

# %% [markdown]
# ## Trained in PyTorch

# %%


def fit(module: torch.nn.Module, epochs: int) -> torch.nn.Module:
    x = torchvision.transforms.Normalize(mean, std)(torch.from_numpy(train.x))
    y = torch.from_numpy(train.labels.copy()).long()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    module.train()
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module.eval()


first = fit(torchvision.models.resnet18(num_classes=10), EPOCHS)
second = fit(copy.deepcopy(first), 1)

# %% [markdown]
# ## Split and attacked
# `verify` compares the logits with the module's.

# %%
nets = [ens.Net.from_state_dict(m.state_dict(), "resnet18", split=(1, 1), image_size=32, mean=mean, std=std, verify=m)
        for m in (first, second)]
print(nets[0], nets[0].cells)
plain = ens.train(nets=nets[:1], out="runs/mine/plain", **SETTINGS)
print(plain)

# %% [markdown]
# ## Protected
# By an ensemble of both, of which the edge selects one in secret; and by the channel, which is trained into a network.

# %%
ensemble = ens.ensemble(nets, selected=1, out="runs/mine/ensemble", **SETTINGS)
funnel = ens.Config(**{"protection.kind": "channel", "model.architecture": "funnel", "model.width": 8, "ensemble.nets": 1,
                       "stage1.epochs": 2 * EPOCHS, "stage1.lr": 0.1})
channel = ens.train(funnel, out="runs/mine/channel", **SETTINGS)
runs = [plain, ensemble, channel]
print(*runs, sep="\n")

# %% [markdown]
# ## The table
# SSIM of what each attack reconstructs: 1 is the image itself; at the floor, nothing was read from the features.

# %%
results = ens.attack(runs, ["oracle", "linear-decoder", "retrieval", "mean-image"], **SETTINGS)
print(results)

# %% [markdown]
# ## And back
# The weights come back bit by bit.

# %%
again = torchvision.models.resnet18(num_classes=10)
again.load_state_dict(nets[0].state_dict(torch=True), strict=False)
assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters()))
ens.report(runs, "runs/mine.html")
