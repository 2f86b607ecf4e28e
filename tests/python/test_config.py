# SPDX-License-Identifier: Apache-2.0
import pickle

import pytest

import ensembler as ens


def test_begins_with_a_bundled_configuration_and_settings_on_top():
    config = ens.Config("demo", **{"ensemble.nets": 3, "model.width": 8})
    assert config.ensemble.nets == 3 and config.model.width == 8
    assert config.data.name == "cifar10"  # configs/demo.txtpb


def test_every_setting_of_the_schema_can_be_read_and_says_what_it_means():
    config = ens.Config()
    paths = list(config.paths())
    assert len(paths) > 60 and "ensemble.lambda" in paths
    for path in paths:
        value = config[path]
        assert isinstance(value, (bool, int, float, str, list)) or value is None
    assert "ensemble.sigma: float; default 0.1" in type(config.ensemble).__doc__


def test_values_out_of_range_are_refused_when_they_are_assigned():
    config = ens.Config()
    for path, value in [("ensemble.sigma", -1), ("ensemble.sigma", float("nan")), ("device", "tpu"),
                        ("stage1.epochs", "three"), ("stage1.epochs", 2.5), ("ensemble.nets", 2**40)]:
        with pytest.raises(ens.UsageError):
            config[path] = value
        assert config.to_text() == ""  # nothing was changed
    with pytest.raises(TypeError):
        config["seed"] = object()


def test_unknown_settings_name_the_nearest():
    config = ens.Config()
    with pytest.raises(AttributeError, match="did you mean 'stage1'"):
        config.stage11.epochs = 3
    with pytest.raises(AttributeError, match="did you mean 'epochs'"):
        config.stage1.epoch = 3
    with pytest.raises(ens.UsageError, match="did you mean 'epochs'"):
        ens.Config(**{"stage1.epoch": 3})
    assert not hasattr(config, "nothing")


def test_a_setting_whose_name_python_needs_has_an_underscore():
    config = ens.Config()
    config.ensemble.lambda_ = 0.25
    assert config["ensemble.lambda"] == 0.25


def test_settings_that_do_not_fit_each_other_are_refused_when_they_are_used():
    config = ens.Config(**{"ensemble.nets": 2, "ensemble.selected": 4})
    assert config.ensemble.selected == 4
    with pytest.raises(ens.UsageError, match="ensemble.selected"):
        config.resolved()


def test_lists():
    config = ens.Config(**{"attack.known_pairs.counts": [1, 20]})
    assert config.attack.known_pairs.counts == [1, 20]


def test_pickles_copies_and_compares_by_value():
    config = ens.Config("demo", seed=7)
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config and eval(repr(config), {"Config": ens.Config}) == config
    copy.seed = 8
    assert config.seed == 7 and copy != config
    assert config.resolved().resolved() == config.resolved()
