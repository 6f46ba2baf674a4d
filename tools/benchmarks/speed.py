"""Images per second of inference, training step, input and the whole loop.

Every figure is a median over rounds that take turns, so that two figures of one
call can be compared although the machine's speed drifts.
"""

import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping

import tensorflow as tf

from vit_tf import config, config_values, errors
from vit_tf.data import (
    batches,
    images,
    mixture,
    pipeline,
)
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders
from vit_tf.runs import run_directory
from vit_tf.runtime import devices
from vit_tf.training import loop, optimizers, train_state

# Untimed calls first: tracing, XLA compilation, caches.
_WARM_UP = 2
# Batches of a loader before its clock starts, as in tools/benchmarks/torch_loader.py: more than
# its buffers hold, which fill while it starts.
_LOADER_WARM_UP = 20


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images per second: median, slowest and fastest round."""

    median: float
    slowest: float
    fastest: float


def compare(works: Mapping[str, Callable[[], int]], *, rounds: int) -> dict[str, Rate]:
    """Times callables in turn.

    Args:
        works: name -> a callable that does some work and returns its images.
        rounds: timed calls of each, after two untimed ones.
    """
    for work in works.values():
        for _ in range(_WARM_UP):
            work()
    rates = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            number = work()
            rates[name].append(number / (time.perf_counter() - began))
    return {
        name: Rate(statistics.median(of_name), min(of_name), max(of_name))
        for name, of_name in rates.items()
    }


def model_works(
    cfg: config.Config,
    *,
    precision: config.Precision,
    jit_compile: bool,
    num_classes: int = 1000,
) -> dict[str, Callable[[], int]]:
    """Makes inference and training step of one model, at one precision."""
    chosen = f"{precision}, XLA {'on' if jit_compile else 'off'}"
    cfg = config_values.from_json(config_values.to_json(cfg))
    cfg.train.precision = precision
    state = _state(cfg, num_classes=num_classes)
    return {
        f"inference, {chosen}": _inference(cfg, state.model, jit_compile),
        f"training step, {chosen}": bare_step(
            cfg, state, num_classes=num_classes, jit_compile=jit_compile
        ),
    }


def _state(cfg: config.Config, *, num_classes: int) -> train_state.TrainState:
    return train_state.build(
        cfg,
        num_classes=num_classes,
        total_steps=10**6,
        strategy=tf.distribute.get_strategy(),
    )


def bare_step(
    cfg: config.Config,
    state: train_state.TrainState,
    *,
    num_classes: int,
    jit_compile: bool,
) -> Callable[[], int]:
    """Makes one compiled forward, backward and update on a fixed batch, and no more.

    What a loop cannot be faster than: no input, no logging, no distribution.
    """
    optimizer, variables = state.optimizer, state.variables
    noise = batches.noise(cfg.data, num_classes=num_classes)
    batch = {name: tf.constant(value) for name, value in noise.items()}
    seed = tf.constant([0, 0])
    batch = state.objective.draw(
        batch, seed, first=tf.constant(0), total=cfg.data.batch_size
    )

    @tf.function(jit_compile=jit_compile)
    def gradients_of():
        with tf.GradientTape() as tape:
            losses, _ = state.objective(state.model, batch, seed)
            loss = tf.reduce_mean(losses)
        values = [v.value for v in variables]
        return loss, tape.gradient(
            loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    @tf.function
    def take_step():
        loss, gradients = gradients_of()
        norm = tf.linalg.global_norm(gradients)
        optimizer.apply(
            optimizers.clip(gradients, cfg.optim.clip_norm, norm), variables
        )
        return loss

    def work() -> int:
        take_step().numpy()
        return cfg.data.batch_size

    return work


def input_work(
    cfg: config.Config, *, data_dir: str | None, batches: int
) -> Callable[[], int]:
    """Makes the training stream alone: `batches` batches of it per call."""
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    stream = iter(pipeline.train_stream(sources, cfg.data, seed=0))

    def work() -> int:
        for _ in range(batches):
            next(stream)
        return batches * cfg.data.batch_size

    return work


def crop_works(
    encoded: list[bytes], *, image_size: int
) -> dict[str, Callable[[], int]]:
    """Makes inception crop with the fused JPEG decode, and by decoding all first."""

    def whole(data, seed):
        picture = images.decode(data)
        begin, size = images.sample_box(tf.shape(picture), seed, min_area=0.05)
        return images.resize(tf.slice(picture, begin, size), image_size)

    def fused(data, seed):
        crop = images.inception_crop(data, seed, min_area=0.05)
        return images.resize(crop, image_size)

    def work_of(crop):
        stream = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
        stream = stream.map(
            lambda i, data: crop(data, tf.stack([tf.cast(i, tf.int32), 0])),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

        def work() -> int:
            return int(stream.reduce(0, lambda count, _: count + 1))

        return work

    return {
        "fused decode and crop": work_of(fused),
        "decode, then crop": work_of(whole),
    }


def loaders(
    folder: str,
    data: config.Data,
    *,
    rounds: int,
    torch_python: str | None,
    torch_script: str,
    batches: int = 60,
) -> dict[str, Rate]:
    """Times the training stream of a folder of images beside
    PyTorch's loader, in turns.

    Each turn starts its contestant afresh, leaves the first batches out and lets
    nothing of the others run: a stream that waits fills its buffers.

    Args:
        folder: class folders with images.
        data: its image and batch size are used.
        rounds: turns of each.
        torch_python: an interpreter with torch and torchvision; None: ours alone.
        torch_script: tools/benchmarks/torch_loader.py.
        batches: timed in a turn, many more than any buffer holds.
    """
    augmented = {"randaug_layers": 2, "randaug_magnitude": 15, "mixup": 0.5}
    views = {
        "stream, inception crop and flip": {},
        "stream, RandAugment(2, 15) and mixup too": augmented,
    }
    rates = {}
    with tempfile.TemporaryDirectory() as root:
        listing = image_folders.list_folder(folder, 0.0)
        chosen = image_folder.FolderConfig(name="images", listing=listing)
        image_folder.ImageFolder(config=chosen, data_dir=root).download_and_prepare()
        (source,) = mixture.open_all("images", root).sources
        for _ in range(rounds):
            for name, changes in views.items():
                shown = dataclasses.replace(data, name="images", **changes)
                rates.setdefault(name, []).append(_stream_rate(source, shown, batches))
            if torch_python is not None:
                rates.setdefault("PyTorch's loader", []).append(
                    _torch_rate(torch_python, torch_script, folder, data, batches)
                )
    return {
        name: Rate(statistics.median(of_name), min(of_name), max(of_name))
        for name, of_name in rates.items()
    }


def _stream_rate(source, data: config.Data, batches: int) -> float:
    stream = iter(pipeline.train_stream(source, data, seed=0))
    for _ in range(_LOADER_WARM_UP):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches * data.batch_size / (time.perf_counter() - began)


def _torch_rate(python, script, folder, data, batches) -> float:
    numbers = (data.image_size, data.batch_size, os.cpu_count() or 1, batches)
    done = subprocess.run(
        [python, script, folder, *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise errors.UserError(
            f"--torch_python={python}: {last}; name an interpreter with torch and "
            "torchvision"
        )
    return float(done.stdout.split()[-1])


def loop_overhead(
    cfg: config.Config,
    *,
    machine: devices.Runtime,
    data_dir: str | None,
    turns: int,
    steps: int,
) -> dict[str, Rate]:
    """Times `loop.train` against `bare_step` of the same model, in turns.

    The loop's rate is the one that it writes to metrics.jsonl, without the first
    row, in which it compiles.

    Args:
        cfg: model, data and optimizer; its length and cadence are replaced.
        machine: one device, from `runtime.start`, as `tools.train` has it.
        data_dir: where the data set lies.
        turns: how often bare step and loop follow each other.
        steps: timed steps of each per turn.
    """
    cfg = config_values.from_json(config_values.to_json(cfg))
    cfg.train.unit, cfg.train.length = config.Unit.STEPS, 2 * steps
    cfg.train.log_every_steps = steps
    cfg.train.checkpoint_every_steps = 2 * steps
    source = mixture.open_all(cfg.data.name, data_dir=data_dir).sources[0]
    bare = bare_step(
        cfg,
        _state(cfg, num_classes=source.num_classes),
        num_classes=source.num_classes,
        jit_compile=machine.jit_compile,
    )
    measured = {"bare step": [], "loop": []}
    for _ in range(turns):
        measured["bare step"].append(compare({"": bare}, rounds=steps)[""].median)
        with tempfile.TemporaryDirectory() as folder:
            loop.train(cfg, folder, machine=machine, data_dir=data_dir)
            rows = run_directory.read_rows(folder)
        measured["loop"].append(
            [r["images_per_second"] for r in rows if "images_per_second" in r][-1]
        )
    return {
        name: Rate(statistics.median(rates), min(rates), max(rates))
        for name, rates in measured.items()
    }


def _inference(cfg, model, jit: bool) -> Callable[[], int]:
    noise = tf.constant(batches.noise(cfg.data, num_classes=1)["image"])

    @tf.function(jit_compile=jit)
    def forward():
        pixels = images.to_model_range(noise, model.compute_dtype)
        return model(pixels, training=False)

    def work() -> int:
        forward().numpy()
        return cfg.data.batch_size

    return work
