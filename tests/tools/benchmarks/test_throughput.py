"""Rates and the largest batch, on devices that are invented and on this one."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import tiny
from tools.benchmarks import programs, throughput
from vit_tf import config, errors
from vit_tf.models import build


class _Device:
    """An invented accelerator with a known memory, and a clock of its own.

    Attributes:
        told: the memory that its compiler says a batch takes, as (fixed, each).
        real: what it takes in truth.
        peak: the batch from which on it is no faster.
    """

    kind, name, version, watches_process = "gpu", "invented", "0", False

    def __init__(self, memory, told, real, *, tells_memory=True, peak=64, broken=None):
        self.memory = memory if tells_memory else None
        self._memory, self.told, self.real, self.peak = memory, told, real, peak
        self.broken = broken or (lambda batch: False)
        self.ran, self.compiled = [], []

    def program(self, call, weights, shape):
        del call, weights, shape
        return self

    def ready(self, batch):
        self.compiled.append(batch)
        if self.broken(batch):
            raise programs.DoesNotRun("XlaRuntimeError: too long", memory=False)

        def run(calls=1):
            if self.real[0] + self.real[1] * batch > self._memory:
                raise programs.DoesNotRun("out of memory", memory=True)
            self.ran.append(batch)
            self.clock.now += calls * max(batch, self.peak) * 1e-3

        return run

    def bytes_of(self, batch):
        return self.told[0] + self.told[1] * batch if self.memory else None


class _Clock:
    now = 0.0

    def __call__(self):
        self.now += 1e-9
        return self.now


def _measured(device, monkeypatch, **changes):
    device.clock = _Clock()
    monkeypatch.setattr(programs, "find", lambda: device)
    monkeypatch.setattr(throughput.time, "perf_counter", device.clock)
    monkeypatch.setattr(throughput.time, "monotonic", device.clock)
    chosen = {"dtype": "float32", "max_batch": 10**6, "point_seconds": 1e9} | changes
    # A device that is watched would have a process of its own.
    measure = throughput.measure_in if device.watches_process else throughput.measure
    return measure("ViT-mu/8", 16, throughput.Settings(**chosen))


@settings(max_examples=25, deadline=None)
@given(
    limit=st.integers(1, 90_000),
    growth=st.integers(2, 4),
    tells=st.booleans(),
    off=st.floats(0.8, 1.25),
)
def test_the_largest_batch_is_found_within_three_percent(limit, growth, tells, off):
    """Whatever the compiler tells: the truth, too little, too much, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        fixed, each = 50.0, 7.0
        memory = fixed + each * (limit + 0.5)
        device = _Device(
            memory, (fixed, each * off), (fixed, each), tells_memory=tells, peak=16
        )
        point = _measured(device, patch, growth=growth)
    assert point.largest_batch <= limit  # it has run
    assert point.largest_batch in device.ran
    # A compiler that tells too much keeps us from trying what would have run.
    lost = max(1.0, off) if tells else 1.0
    assert point.largest_batch * 1.031 * lost + 1 >= limit
    assert len(device.compiled) < 60


def test_a_truthful_compiler_needs_few_tries(monkeypatch):
    device = _Device(1e6, (1000.0, 10.0), (1000.0, 10.0))
    point = _measured(device, monkeypatch, growth=4)
    assert point.largest_batch == 99_900
    assert (point.fixed_bytes, point.image_bytes) == (1000.0, 10.0)
    climbed = len(point.rates)
    assert not point.at_least
    assert len(device.compiled) <= climbed + 2
    assert "100 % of the device's memory by the compiler" in point.largest_how


class _Process(_Device):
    """Told by the memory of the process, which small batches move by leaps."""

    kind, watches_process = "cpu", True

    def bytes_of(self, batch):
        return super().bytes_of(batch) + 150.0 * (batch > 3) + 100.0 * (batch > 30)


def test_a_process_is_watched_until_its_growth_tells(monkeypatch):
    device = _Process(24_000.0, (1000.0, 1.0), (1000.0, 1.0), peak=1)
    point = _measured(device, monkeypatch, growth=4)
    assert point.largest_batch == pytest.approx(23_000, rel=0.02)
    assert point.rates[-1][0] < 256 and max(device.ran) < 0.6 * 24_000
    assert "at batches 256 and 1,024" in point.largest_how
    assert [row[0] for row in point.rates] == [1, 4, 16]  # one slow batch is chance
    few = _measured(device, monkeypatch, growth=4, max_batch=64)
    assert few.largest_batch is None and few.image_bytes is None
    assert few.largest_how == "not found: memory grew too little up to batch 64"


def test_the_rate_is_the_best_and_climbing_ends_where_nothing_is_won(monkeypatch):
    device = _Device(1e9, (0.0, 1.0), (0.0, 1.0), peak=20_000)
    point = _measured(device, monkeypatch)
    batches = [row[0] for row in point.rates]
    first = batches[0]
    assert batches == [first * 2**i for i in range(len(batches))]
    assert point.images_per_second == pytest.approx(1000, rel=1e-3)
    assert batches[-2:] == [32_768, 65_536] and point.rates_end == "no faster"
    assert point.batch_size in batches[-2:]
    for _, median, slowest, fastest in point.rates:
        assert slowest <= median <= fastest


def test_smaller_batches_are_tried_where_the_first_does_not_fit(monkeypatch):
    device = _Device(100.0, (0.0, 1.0), (0.0, 1.0), peak=1)
    point = _measured(device, monkeypatch)
    assert max(device.compiled) > 100 >= point.largest_batch >= 97
    assert point.images_per_second and point.batch_size <= 100


def test_what_never_fits_is_told_and_a_fault_is_raised(monkeypatch):
    point = _measured(_Device(1.0, (5.0, 1.0), (5.0, 1.0)), monkeypatch)
    assert point.images_per_second is None and point.rates_end == "out of memory"
    broken = _Device(1e9, (0.0, 1.0), (0.0, 1.0), broken=lambda batch: True)
    with pytest.raises(programs.DoesNotRun, match="too long"):
        _measured(broken, monkeypatch)


def test_a_batch_that_cannot_be_compiled_bounds_the_largest(monkeypatch):
    device = _Device(
        1e9, (0.0, 1.0), (0.0, 1.0), broken=lambda batch: batch > 7000, peak=16
    )
    point = _measured(device, monkeypatch)
    assert 6700 <= point.largest_batch <= 7000
    assert "did not fit (XlaRuntimeError: too long)" in point.largest_how


def test_limits_of_batch_and_time_are_said(monkeypatch):
    here = _Device(1e9, (0.0, 1.0), (0.0, 1.0), peak=10**6)
    point = _measured(here, monkeypatch, max_batch=16_384)
    assert point.largest_batch == 16_384 and "limit of 16,384" in point.largest_how
    assert point.at_least
    slow = _Device(1e9, (0.0, 1.0), (0.0, 1.0), tells_memory=False, peak=10**6)
    point = _measured(slow, monkeypatch, point_seconds=0.0)
    assert len(point.rates) == 1 and "time limit" in point.largest_how
    assert point.faster_at_least
    hurried = _Device(1e9, (0.0, 1.0), (0.0, 1.0), peak=10**6)
    point = _measured(hurried, monkeypatch, point_seconds=0.0)
    assert point.largest_batch is None  # what ran says little of what would fit
    assert point.largest_how.startswith("not found in time")


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_this_cpu_is_measured_with_weights_as_arguments(dtype, monkeypatch):
    """In this process, whose memory has been at its peak before."""
    chosen = throughput.Settings(dtype=dtype, seconds=0.0, max_batch=2)
    traced = []
    real = programs.TensorFlowProgram.__init__

    def noting(self, backend, call, weights, shape):
        def noted(*arguments):
            traced.append(len(arguments[0]) + len(arguments[1]))
            return call(*arguments)

        real(self, backend, noted, weights, shape)

    monkeypatch.setattr(programs.TensorFlowProgram, "__init__", noting)
    for model, size in [("R14x1", 32), ("R8+ViT-mu/8", 16), ("ViT-mu/8", 16)]:
        point = throughput.measure_in(model, size, chosen)
        assert point.rates[0][0] == 1
        assert point.images_per_second > 0 and point.seconds > 0
        network = build.outline(
            config.Model(variant=model), num_classes=1000, image_size=size
        )
        assert traced.pop() == len(network.weights)


_JAX_ALONE = """
import json, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from tools import benchmark, command
sys.argv = ["benchmark", "--what=figure12", "--models=ViT-mu/8,R14x1", "--sizes=32",
            "--seconds=0", "--max_batch=2", "--json=" + sys.argv[1], *sys.argv[2:]]
command.run(benchmark.main)
"""


@pytest.mark.needs("jax")
def test_jax_measures_without_tensorflow(tmp_path):
    path = tmp_path / "found.json"
    for dtype in ("float32", "float32"):  # the second finds all done
        done = subprocess.run(
            [sys.executable, "-c", _JAX_ALONE, str(path), f"--dtype={dtype}"],
            check=False,
            env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(tiny.ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 of 2 points are in")
    found = json.loads(path.read_text())
    assert found["backend"] == "jax" and "tensorflow" not in found["versions"]
    for point in found["points"]:
        # Of a compiler, so it says what two batches take, weights first.
        assert 0 < point["image_bytes"] < point["fixed_bytes"]
        assert point["largest_batch"] == 2 and "limit of 2" in point["largest_how"]
    drawn = path.with_suffix(".images_per_second.svg").read_text("utf-8")
    assert "ViT-mu/8" in drawn and "R14x1" in drawn


@pytest.mark.parametrize(
    ("model", "size", "pixels"),
    [
        ("ViT-H/14", 64, 56),
        ("ViT-H/14", 224, 224),
        ("ViT-H/14", 512, 504),
        ("R50x1", 70, 70),
        ("ViT-B/32", 384, 384),
    ],
)
def test_patches_see_whole_multiples(model, size, pixels):
    throughput.check(model, size)
    assert throughput.seen_pixels(model, size) == pixels


def test_what_there_is_not_is_refused():
    with pytest.raises(errors.UserError, match="did you mean ViT-B/16"):
        throughput.check("ViT-B16", 64)
    with pytest.raises(errors.UserError, match="ViT-B/32 needs 32 pixels"):
        throughput.check("ViT-B/32", 16)


def test_noise_is_never_zero_and_small():
    found = programs.noise((3, 70_000))
    assert found.shape == (3, 70_000) and (abs(found) > 0).all() and found.std() < 0.03
    assert list(itertools.islice(found[0], 3)) == list(found.reshape(-1)[2**16 :][:3])
