"""The benchmark measures what it says; no figure is asserted."""

import itertools
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support import tiny
from tools.benchmarks import speed
from vit_tf import config, errors
from vit_tf.training import train_state


def test_works_take_turns_and_count_their_images():
    calls = []
    works = {
        "a": lambda: calls.append("a") or 3,
        "b": lambda: calls.append("b") or 5,
    }
    rates = speed.compare(works, rounds=2)
    assert calls == ["a", "a", "b", "b", "a", "b", "a", "b"]
    for rate in rates.values():
        assert 0 < rate.slowest <= rate.median <= rate.fastest


@pytest.mark.slow
def test_the_model_is_measured_in_every_way():
    cfg = tiny.make(data__batch_size=4)
    ways = [(config.Precision.FLOAT32, True)]
    ways += [(precision, False) for precision in config.Precision]
    for precision, jit in ways:
        works = speed.model_works(
            cfg, precision=precision, jit_compile=jit, num_classes=10
        )
        assert len(works) == 2
        for name, work in works.items():
            assert str(precision) in name and ("on" if jit else "off") in name
            assert work() == 4


def test_the_bare_step_trains():
    cfg = tiny.make(data__batch_size=4, optim__warmup_steps=0)
    state = train_state.build(
        cfg, num_classes=10, total_steps=9, strategy=tiny.one_device().strategy
    )
    before = [v.numpy() for v in state.variables]
    speed.bare_step(cfg, state, num_classes=10, jit_compile=False)()
    after = [v.numpy() for v in state.variables]
    assert any((x != y).any() for x, y in zip(before, after))


def test_the_loop_and_the_input_are_measured(data_dir):
    cfg = tiny.make(train__length=4, optim__warmup_steps=0)
    rates = speed.loop_overhead(
        cfg, machine=tiny.one_device(), data_dir=data_dir, turns=1, steps=2
    )
    assert rates.keys() == {"bare step", "loop"}
    assert speed.input_work(cfg, data_dir=data_dir, batches=2)() == 32


def test_crops_are_measured_over_every_file():
    picture = tf.io.encode_jpeg(tf.zeros((40, 50, 3), tf.uint8)).numpy()
    works = speed.crop_works([picture] * 5, image_size=16)
    assert {work() for work in works.values()} == {5}
    assert len(works) == 2


def test_the_stream_of_a_folder_beside_another_loader(tmp_path):
    """A stand-in for PyTorch's loader: any interpreter that prints a number."""
    for kind, number in itertools.product("ab", range(4)):
        path = tmp_path / "photos" / kind / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 50, 3), 30 * number, np.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    script = tmp_path / "loader.py"
    script.write_text("import sys\nassert sys.argv[2:4] == ['16', '4']\nprint(123.5)\n")
    data = config.Data(image_size=16, batch_size=4)
    options = {"rounds": 1, "torch_script": str(script), "batches": 2}
    rates = speed.loaders(
        str(tmp_path / "photos"), data, torch_python=sys.executable, **options
    )
    assert len(rates) == 3 and rates["PyTorch's loader"].median == 123.5
    assert all(rate.slowest > 0 for rate in rates.values())
    script.write_text("raise ImportError('no torch here')")
    with pytest.raises(errors.UserError, match="no torch here; name an interpreter"):
        speed.loaders(
            str(tmp_path / "photos"), data, torch_python=sys.executable, **options
        )
