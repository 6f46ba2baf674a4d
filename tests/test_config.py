"""Configs round-trip, refuse bad values early, and name the nearest field."""

import dataclasses
import subprocess
import sys

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import overrides
from vit_tf import config, config_values, errors
from vit_tf.runtime import timing


@given(
    lr=st.floats(min_value=1e-9, max_value=1e3),
    clip=st.none() | st.floats(min_value=1e-6, max_value=1e6),
    splits=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    schedule=st.sampled_from(config.Schedule),
    start=st.none() | st.text(min_size=1),
)
def test_json_round_trip(lr, clip, splits, schedule, start):
    cfg = config.Config(
        optim=config.Optim(lr=lr, clip_norm=clip, schedule=schedule),
        evals=config.Evals(splits=splits),
        start_from=start,
    )
    again = config_values.from_json(config_values.to_json(cfg))
    assert again == cfg
    assert config_values.fingerprint(again) == config_values.fingerprint(cfg)


def test_fingerprint_depends_on_every_field():
    prints = {config_values.fingerprint(config.Config())}
    fields = config_values.fields(config.Config())
    for path, value in fields.items():
        cfg = config.Config()
        overrides.override(cfg, path, _another(path, value))
        prints.add(config_values.fingerprint(cfg))
    assert len(prints) == len(fields) + 1


def _another(path, value):
    """Command line text of a legal value that differs from `value`."""
    special = {
        "start_from": "runs/a",
        "train.unit": "epochs",
        "model.variant": "ViT-L/16",
        "model.pool": "map",
        "model.stochastic_depth": "0.5",
        "optim.polyak": "0.9",
        "optim.clip_norm": "2",
        "model.dropout": "0.5",
        "model.attention_dropout": "0.5",
        "objective.label_smoothing": "0.5",
        "evals.measures": "nll",
        "evals.few_shot.shots": "2",
        "evals.few_shot.l2": "2",
    }
    if path in special:
        return special[path]
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, (int, float)):
        return str(value / 2) if isinstance(value, float) and value else str(value + 1)
    if isinstance(value, tuple):
        return "a,b"
    if value is None:
        return "3"
    kind = type(value)
    others = [v for v in kind if v != value] if kind is not str else ["other"]
    return others[0]


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (
            "optim.lrr",
            "1",
            "--config.optim.lrr: no such field (did you mean optim.lr?)",
        ),
        ("lr", "1", "(did you mean optim.lr?)"),
        ("optim.schedule", "cosin", "(did you mean cosine?)"),
        ("optim.lr", "-1", "greater than 0"),
        ("optim.lr", "fast", "valid number"),
        ("train.seed", "2.5", "valid integer"),
        ("data.flip", "perhaps", "valid boolean"),
        ("model.dropout", "1", "less than 1"),
    ],
)
def test_refusals_are_one_line_and_name_the_field(path, text, said):
    with pytest.raises(errors.UserError) as caught:
        overrides.override(config.Config(), path, text)
    line = str(caught.value)
    assert said in line and f"--config.{path}" in line
    assert "\n" not in line


def test_override_sets_optionals_tuples_and_enums():
    cfg = config.Config()
    for path, text, value in [
        ("optim.clip_norm", "1.5", 1.5),
        ("optim.clip_norm", "none", None),
        ("evals.splits", "test", ("test",)),
        ("evals.splits", "train[98%:],test[:256]", ("train[98%:]", "test[:256]")),
        ("evals.splits", "[test[:256]]", ("test[:256]",)),
        ("evals.splits", "('train[:10%]', 'test')", ("train[:10%]", "test")),
        ("objective.loss", "sigmoid", config.Loss.SIGMOID),
        ("data.flip", "false", False),
    ]:
        overrides.override(cfg, path, text)
        assert config_values.fields(cfg)[path] == value


def test_a_refused_override_changes_nothing():
    cfg = config.Config()
    with pytest.raises(errors.UserError):
        overrides.override(cfg, "optim.lr", "-1")
    assert cfg == config.Config()


def test_unknown_fields_in_json_are_refused_with_the_nearest_name():
    text = config_values.to_json(config.Config()).replace('"lr"', '"lrr"')
    with pytest.raises(errors.UserError, match=r"lrr.*did you mean lr\?"):
        config_values.from_json(text)


def test_unknown_fields_in_python_are_refused():
    with pytest.raises(pydantic.ValidationError, match="lrr"):
        config.Optim(lrr=1)


@pytest.mark.parametrize(
    ("length", "unit", "steps"),
    [
        (7, "steps", 7),
        (90, "epochs", 311_948),  # counted here, for ImageNet-21k
        (30, "epochs", 103_982),
        (1000, "examples", 1),
        (8192, "examples", 2),
    ],
)
def test_number_of_steps(length, unit, steps):
    train = config.Train(length=length, unit=unit)
    got = timing.num_steps(train, batch_size=4096, num_examples=14_197_122)
    assert got == steps


def test_imagenet_300_epochs_are_the_papers_steps():
    train = config.Train(length=300, unit="epochs")
    steps = timing.num_steps(train, batch_size=4096, num_examples=1_281_167)
    assert steps == 93_835


def test_differences_name_both_values():
    ours, theirs = config.Config(), config.Config()
    theirs.optim.lr = 0.5
    assert config_values.differences(ours, theirs) == ["optim.lr: 0.001 against 0.5"]


def test_config_and_recipes_do_not_load_tensorflow():
    code = (
        "import sys; from vit_tf import config; from vit_tf.recipes import paper; "
        "import experiments.quickstart; "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_knob_has_a_simple_type():
    for value in config_values.fields(config.Config()).values():
        assert not dataclasses.is_dataclass(value)
        assert isinstance(value, (int, float, str, tuple, bool, type(None)))


def test_a_subset_is_an_amount_and_a_unit():
    cfg = config.Config()
    assert cfg.data.subset.amount is None
    overrides.override(cfg, "data.subset.amount", "5")
    overrides.override(cfg, "data.subset.unit", "shots")
    assert cfg.data.subset == config.Subset(amount=5, unit=config.Keep.SHOTS)
    assert config_values.from_json(config_values.to_json(cfg)) == cfg
    for path, text in (("amount", "0"), ("unit", "shot"), ("seed", "-1")):
        with pytest.raises(errors.UserError, match=f"data.subset.{path}={text}"):
            overrides.override(cfg, f"data.subset.{path}", text)
