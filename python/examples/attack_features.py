# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Attack the features of any network
# No weights and no known architecture are needed: arrays of images and of what the network makes of them. Here a few layers
# of PyTorch stand for the client; `query` is what an attacker has who may ask for features.

# %%
from typing import Any

import numpy as np
import torch

import ensembler as ens

torch.manual_seed(0)
client = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5, 2, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval()


def features(x: Any) -> Any:
    with torch.no_grad():
        return client(torch.from_numpy(np.array(x))).numpy()


own = ens.Dataset.load("shapes", limit=400)  # the attacker's
victim = ens.Dataset.load("shapes", test=True, limit=24)

# %%
SMALL: dict[str, Any] = {"attack.decoder.channels": 8, "attack.decoder.blocks": 1, "attack.decoder.epochs": 4,
                         "attack.known_pairs.counts": [12]}
results = ens.attack_features(z=features(victim.x), truth=victim, pairs=(own[:200], features(own[:200].x)),
                              public=own[200:], attacks=["linear-decoder", "retrieval", "known-pairs", "mean-image"], **SMALL)
print(results)

# %%
asked = ens.attack_features(z=features(victim.x), truth=victim, public=own, query=features,
                            attacks=["oracle", "linear-decoder"], **SMALL)
print(asked)

# %% [markdown]
# A protection is worth what the strongest attack still reads: noise, for example.

# %%
rng = np.random.default_rng(0)


def noisy(x: Any) -> Any:
    z = features(x)
    return z + rng.normal(0, 0.3, z.shape).astype(np.float32)


print(ens.attack_features(z=noisy(victim.x), truth=victim, public=own, query=noisy, attacks=["linear-decoder"], **SMALL))
