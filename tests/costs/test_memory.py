"""Memory is estimated before it is needed, close to what was measured."""

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support import tiny
from vit_tf import config, errors
from vit_tf.costs import memory
from vit_tf.models import build
from vit_tf.runtime import devices, host_memory
from vit_tf.training import setup

MIB = 2**20


def _config(variant, size, batch, precision="float32", remat=False):
    return tiny.make(
        model__variant=variant,
        model__remat=str(remat).lower(),
        data__image_size=size,
        data__batch_size=batch,
        train__precision=precision,
    )


def _outline(cfg):
    return build.outline(cfg.model, num_classes=10, image_size=cfg.data.image_size)


@pytest.mark.parametrize(
    ("variant", "size", "batch", "precision", "remat", "measured"),
    [  # MiB that `footprint.measure` saw: two x86 cores, TensorFlow 2.21, 2026-12-01
        ("ViT-Ti/16", 224, 16, "float32", False, 1522),
        ("ViT-Ti/16", 224, 16, "mixed_bfloat16", False, 1142),
        ("ViT-Ti/16", 224, 64, "float32", False, 4532),
        ("ViT-Ti/16", 384, 8, "float32", False, 2228),
        ("ViT-Ti/16", 384, 8, "mixed_bfloat16", False, 1855),
        ("ViT-Ti/16", 224, 16, "float32", True, 702),
        ("ViT-S/32", 224, 64, "float32", False, 2843),
        ("ViT-S/16", 224, 8, "float32", False, 1721),
        ("ViT-S/16", 224, 8, "mixed_bfloat16", False, 1409),
        ("ViT-B/32", 224, 16, "float32", False, 2660),
        ("ViT-B/32", 384, 16, "mixed_bfloat16", False, 3634),
        ("ViT-B/16", 224, 4, "float32", False, 2687),
        ("ViT-B/16", 224, 4, "mixed_bfloat16", False, 2374),
        ("ViT-B/16", 224, 16, "mixed_bfloat16", False, 4578),
        ("ViT-B/16", 384, 4, "mixed_bfloat16", True, 2440),
        ("R50x1", 224, 8, "float32", False, 1981),
        ("R50x1", 224, 8, "mixed_bfloat16", False, 1836),
        ("R50+ViT-B/16", 224, 4, "float32", False, 3815),
        ("R50+ViT-B/16", 224, 4, "mixed_bfloat16", False, 3452),
        ("ViT-B/32", 224, 4, "float32", False, 2195),
    ],
)
def test_the_estimate_is_near_what_was_measured(
    variant, size, batch, precision, remat, measured
):
    cfg = _config(variant, size, batch, precision, remat)
    estimated = memory.training_bytes(cfg, _outline(cfg)) / MIB
    assert estimated == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("variant", "size", "batch", "precision", "measured"),
    [  # MiB of a process' forward passes, as above
        ("ViT-Ti/16", 224, 64, "float32", 383),
        ("ViT-Ti/16", 224, 256, "float32", 1229),
        ("ViT-Ti/16", 384, 64, "float32", 1123),
        ("ViT-Ti/16", 384, 64, "mixed_bfloat16", 1115),
        ("ViT-B/32", 224, 64, "float32", 807),
    ],
)
def test_the_estimate_of_an_evaluation_is_within_a_quarter(
    variant, size, batch, precision, measured
):
    outline = build.outline(
        config.Model(variant=variant), num_classes=1000, image_size=size
    )
    estimated = memory.evaluation_bytes(
        outline, batch_size=batch, precision=config.Precision(precision)
    )
    assert estimated / MIB == pytest.approx(measured, rel=0.25)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    batch=st.integers(1, 64),
    gib=st.floats(0.5, 20),
    replicas=st.sampled_from([1, 2]),
    mixup=st.sampled_from([0.0, 0.2]),
)
def test_the_fewest_parts_fit_and_fewer_do_not(batch, gib, replicas, mixup):
    cfg = _config("ViT-Ti/16", 224, 2 * batch * replicas)
    cfg.data.mixup = mixup
    network, limit = OUTLINE, round(gib * 2**30)
    parts = memory.fewest_parts(cfg, network, memory=limit, replicas=replicas)
    rows = 2 * batch

    def needed(count):
        changed = _config("ViT-Ti/16", 224, cfg.data.batch_size)
        changed.train.accumulation = count
        return memory.training_bytes(changed, network, replicas=replicas)

    possible = [n for n in range(1, rows + 1) if rows % n == 0]
    if mixup:
        possible = [n for n in possible if rows // n % 2 == 0]
    fitting = [n for n in possible if needed(n) <= limit]
    assert parts == min(fitting, default=None)


OUTLINE = _outline(_config("ViT-Ti/16", 224, 2))


def test_a_step_that_cannot_fit_is_refused_with_what_helps(data_dir):
    machine = devices.Runtime(
        devices.tf.distribute.get_strategy(), False, "1 CPU", memory=8 * 2**30
    )
    cfg = _config("ViT-B/16", 384, 512)
    with pytest.raises(errors.UserError) as refusal:
        setup.prepare(cfg, machine, data_dir=data_dir)
    line = str(refusal.value)
    assert "\n" not in line and "there are 8.0 GiB" in line
    assert "ViT-B/16 at 384 pixels with data.batch_size=512" in line
    parts = int(line.split("train.accumulation=")[2].split(",")[0])
    cfg.train.accumulation = parts
    assert memory.training_bytes(cfg, _outline(cfg)) <= machine.memory


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__variant": "ViT-L/16"}, "set model.remat=true"),
        ({"model__variant": "ViT-L/16", "model__remat": "true"}, "smaller model or"),
    ],
)
def test_where_no_part_is_small_enough_the_model_is_named(changes, said):
    cfg = tiny.make(data__image_size=384, **changes)
    with pytest.raises(errors.UserError, match=said):
        memory.check_training(cfg, num_classes=10, memory=2**30)


def test_batches_are_cut_once_into_parts_that_fit():
    cfgs = {lr: _config("ViT-B/32", 384, 64) for lr in ("low", "high")}
    how = {"num_classes": 10, "memory": 6 * 2**30}
    line = memory.fit_batches(cfgs, **how)
    (parts,) = {cfg.train.accumulation for cfg in cfgs.values()}
    assert parts > 1 and f"in {parts} parts (train.accumulation={parts})" in line
    for cfg in cfgs.values():
        assert memory.training_bytes(cfg, _outline(cfg)) <= 0.75 * how["memory"]
    assert memory.fit_batches(cfgs, **how) is None, "nothing had to be changed"
    assert memory.fit_batches(cfgs, **how | {"memory": None}) is None


def test_a_batch_of_evaluation_is_refused_with_one_that_fits():
    check = {"precision": config.Precision.FLOAT32, "memory": 2**30}
    with pytest.raises(errors.UserError, match="take batch_size=") as refusal:
        memory.check_evaluation(OUTLINE, batch_size=10_000, **check)
    fits = int(str(refusal.value).split("take batch_size=")[1].split(",")[0])
    memory.check_evaluation(OUTLINE, batch_size=fits, **check)


def test_nothing_is_refused_where_memory_is_not_known():
    cfg = _config("ViT-B/16", 384, 4096)
    memory.check_training(cfg, num_classes=10, memory=None)


def test_a_container_has_what_its_limit_says(monkeypatch, tmp_path):
    (tmp_path / "new").write_text("max\n")
    (tmp_path / "old").write_text(f"{3 * 2**30}\n")
    paths = [tmp_path / name for name in ("new", "old", "none")]
    monkeypatch.setattr(host_memory, "LIMIT_FILES", paths)
    assert host_memory.total_bytes() == 3 * 2**30
    monkeypatch.setattr(host_memory, "LIMIT_FILES", paths[:1])
    assert host_memory.total_bytes() > 2**30
