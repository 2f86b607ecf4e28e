# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Classify with a cloud
# The edge keeps `edge.h5`, the cloud serves `cloud.h5`. Here both run on one machine and without keys; elsewhere
# `server_key=` and `secret_key=` name those that `ensembler keys new` makes.

# %%
import asyncio
import os
import shutil
import subprocess
import threading
import time

import ensembler as ens

run = ens.train(ens.Config(**{"data.name": "shapes", "data.train_limit": 1500, "data.test_limit": 200, "model.width": 8,
                              "ensemble.nets": 2, "ensemble.selected": 1, "stage1.epochs": 1, "stage2.epochs": 1}),
                out="runs/edge")
program = shutil.which("ensembler-cloud")
assert program, "install the package ensembler-cloud"
ready = "runs/edge.ready"
cloud = subprocess.Popen([program, "--bundle", run.cloud_bundle, "--bind", "tcp://127.0.0.1:*", "--ready-file", ready])
while not os.path.exists(ready):
    time.sleep(0.1)
address = open(ready).read().strip()
test = ens.Dataset.load("shapes", test=True, limit=200)

# %%
with ens.EdgeClient(run.edge_bundle, address) as edge:
    print(edge.classify(test.x[0]))
    all_of_them = edge.classify(test.x)
    print(f"accuracy {(all_of_them.logits.argmax(1) == test.labels).mean():.2f}", all_of_them.times)

# %% [markdown]
# The same in an event loop, with eight frames under way.

# %%


async def stream() -> int:
    right = 0
    async with ens.AsyncEdgeClient(run.edge_bundle, address) as edge:
        label = iter(test.labels)
        async for classified in edge.stream(test.x, in_flight=8):
            right += int(classified.top[0][0].index == next(label))
    return right


async def main() -> None:
    print(f"{await stream()} of {len(test)} right")


# A notebook has a loop of its own in this thread, where `await main()` would do.
worker = threading.Thread(target=lambda: asyncio.run(main()))
worker.start()
worker.join()

# %%
cloud.terminate()
cloud.wait()
os.remove(ready)
