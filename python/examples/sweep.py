# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A sweep
# Every combination of settings, trained and attacked; what is done already is skipped, and nets of stage 1 that are equal
# are trained once.

# %%
import ensembler as ens

base = ens.Config(**{
    "data.name": "shapes", "data.train_limit": 1000, "data.test_limit": 100, "data.public_images": 150, "model.width": 8,
    "stage1.epochs": 1, "stage2.epochs": 1, "attack.public_images": 150, "attack.scored_images": 32,
    "attack.decoder.channels": 16, "attack.decoder.blocks": 1, "attack.decoder.epochs": 3, "attack.reference_images": 0})
cells = ens.sweep(base, {"protection.kind": ["none", "single", "additive"], "ensemble.sigma": [0.1, 0.5]},
                  attacks=["linear-decoder", "mean-image"], out="runs/sweep", progress=True)
print(*cells, sep="\n")

# %%
print(ens.table("runs/sweep"))
