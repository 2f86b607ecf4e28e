# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Ten lines to a table
# Train a small classifier whose middle runs in a cloud, and measure what the cloud could reconstruct of its images.
# `shapes` is drawn and needs no file; nets and attacks are small, so that this takes seconds: do not believe its numbers.

# %%
import ensembler as ens

config = ens.Config(**{"data.name": "shapes", "data.train_limit": 1500, "data.test_limit": 200, "model.width": 8,
                       "stage1.epochs": 2, "protection.kind": "none"})
config.attack.scored_images = 32
config.attack.decoder.channels, config.attack.decoder.blocks, config.attack.decoder.epochs = 16, 1, 4

# %%
run = ens.train(config, out="runs/ten-lines", progress=True)
print(run)

# %%
config.attack.reference_images = 0
results = ens.attack(run, ["linear-decoder", "oracle", "mean-image"], config=config)
print(results)

# %%
print(ens.report([run], "runs/ten-lines.html"))
