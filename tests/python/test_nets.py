# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest

import ensembler as ens

from conftest import SMALL, SOURCE, peer

NORMAL = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def trained(module):
    """Batch norms with statistics that are not those of a fresh network."""
    torch = peer("torch")
    torch.manual_seed(3)
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
    return module.eval()


def test_resnet18_comes_in_computes_the_same_and_goes_out_bit_by_bit():
    torch, models = peer("torch"), peer("torchvision.models")
    module = trained(models.resnet18(num_classes=10))
    net = ens.Net.from_state_dict(module.state_dict(), "resnet18", image_size=64, verify=module, **NORMAL)
    state = net.state_dict(torch=True)
    for name, value in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], value), name
    missing, _ = models.resnet18(num_classes=10).load_state_dict(state, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert net.cells == ["stem", "stage1", "stage2", "stage3", "stage4", "fc"]


def test_vgg16_bn_computes_the_same():
    models = peer("torchvision.models")
    module = trained(models.vgg16_bn(num_classes=10))
    ens.Net.from_state_dict(module.state_dict(), "vgg16_bn", image_size=32, verify=module, **NORMAL)


def test_a_module_that_computes_something_else_is_found():
    models = peer("torchvision.models")
    module = trained(models.resnet18(num_classes=10))
    with pytest.raises(ens.EnsemblerError, match="stem_pool"):
        ens.Net.from_state_dict(module.state_dict(), image_size=64, stem_pool=False, verify=module, **NORMAL)


def test_what_does_not_fit_is_named():
    models = peer("torchvision.models")
    state = dict(models.resnet18(num_classes=10).state_dict())
    prefixed = {"module._orig_mod." + name: value for name, value in state.items()}
    net = ens.Net.from_state_dict(prefixed, image_size=64, **NORMAL)
    assert net.sha256 == ens.Net.from_state_dict(state, image_size=64, **NORMAL).sha256
    for change, name in ((lambda s: s.pop("layer3.0.downsample.0.weight"), "layer3.0.downsample.0.weight"),
                         (lambda s: s.update(extra=state["fc.bias"]), "extra"),
                         (lambda s: s.update({"fc.bias": state["bn1.bias"]}), "fc.bias"),
                         (lambda s: s.update({"fc.bias": state["fc.bias"] * float("nan")}), "fc.bias")):
        wrong = dict(state)
        change(wrong)
        with pytest.raises(ens.UsageError, match=name):
            ens.Net.from_state_dict(wrong, image_size=64, **NORMAL)
    for options in (dict(split=(0, 1)), dict(split=(3, 3)), dict(architecture="vgg16_bn"), dict(image_size=8)):
        with pytest.raises(ens.UsageError):
            ens.Net.from_state_dict(state, **{"image_size": 64, **NORMAL, **options})
    with pytest.raises(ens.UsageError):
        ens.Net.from_state_dict({}, **NORMAL)
    with pytest.raises(TypeError):
        pickle.dumps(net)


def small_net(run, tmp_path, name="net"):
    run.export(tmp_path, format="safetensors", secrets=True)
    return ens.Net.from_safetensors(tmp_path / f"{name}.safetensors", image_size=32, stem_pool=True, mean=MEAN, std=STD)


MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_safetensors_go_out_and_in(run, tmp_path):
    net = small_net(run, tmp_path)
    net.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").stat().st_mode & 0o77 == 0
    again = ens.Net.from_safetensors(tmp_path / "again.safetensors", mean=MEAN, std=STD)
    assert again.sha256 == net.sha256
    x = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    assert np.array_equal(net.logits(x), again.logits(x))
    # Against the weights themselves: the last layer is linear.
    state = net.state_dict()
    state["fc.weight"] = np.zeros_like(state["fc.weight"])
    assert np.allclose(ens.Net.from_state_dict(state, mean=MEAN, std=STD).logits(x), state["fc.bias"], atol=1e-6)


def test_an_ensemble_of_trained_nets(run, tmp_path):
    net = small_net(run, tmp_path)
    state = net.state_dict()
    other = ens.Net.from_state_dict({**state, "fc.bias": state["fc.bias"] + 1}, mean=MEAN, std=STD)
    settings = {k: v for k, v in SMALL.items() if k.startswith(("data.", "stage2."))}
    e = ens.ensemble([net, other], selected=1, out=tmp_path / "run", **settings)
    assert e.summary["nets"] == 2 and e.summary["selected"] == 1 and e.summary["protection"] == "ensembler"
    assert e.config.model.imported == f"{net.sha256},{other.sha256}"
    with pytest.raises(ens.UsageError, match="one form"):
        third = ens.Net.from_state_dict(state, mean=MEAN, std=(1, 1, 1))
        ens.ensemble([net, third], selected=1, out=tmp_path / "x", **settings)


def test_a_net_as_a_run_has_the_accuracy_that_its_logits_have(run, tmp_path):
    net = small_net(run, tmp_path)
    settings = {k: v for k, v in SMALL.items() if k.startswith("data.")}
    imported = ens.train(nets=[net], out=tmp_path / "run", dtype="float32", **settings)
    test = ens.Dataset.load("shapes", test=True, limit=100)
    assert imported.accuracy == pytest.approx((net.logits(test.x).argmax(1) == test.labels).mean(), abs=0.011)
