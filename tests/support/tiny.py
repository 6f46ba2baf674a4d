"""Training the tiny run, in this process or in another, and reading it back."""

import collections
import json
import pathlib

import numpy as np
import tensorflow as tf

from tests.support import tiny_config
from vit_tf import config
from vit_tf.runs import run_directory
from vit_tf.runtime import devices
from vit_tf.training import setup, step

ROOT = pathlib.Path(__file__).parents[2]

make = tiny_config.make

# A run with every number that an evaluation gives; the fixture `evaluated` trains it.
EVALUATED = {
    "evals__measures": "accuracy,top5_accuracy,class_accuracy,loss,nll,ece",
    "evals__few_shot__datasets": "digits",
    "evals__few_shot__shots": "2,5",
    "evals__few_shot__num_seeds": 2,
    "evals__every_steps": 4,
    "train__length": 8,
    "train__keep_checkpoints": 1,
    "train__keep_best": "digits/test/5shot",
    "optim__polyak": 0.5,
}

# A run of masked patches with all that a resume has to get right; the fixture `masked`.
MASKED = {
    "objective__task": "masked_patch",
    "optim__polyak": 0.9,
    "model__dropout": 0.1,
    "train__accumulation": 2,
    "train__length": 8,
    "evals__every_steps": 4,
    "evals__draw_every_steps": 6,  # and the last
}


def one_device() -> devices.Runtime:
    return devices.Runtime(tf.distribute.get_strategy(), False, "1 CPU")


def mirrored(num_devices: int, *, jit_compile: bool = False) -> devices.Runtime:
    """Over the first of the eight virtual CPU devices that conftest.py made."""
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(num_devices)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    return devices.Runtime(strategy, jit_compile, f"{num_devices} virtual CPU devices")


def steps(
    trainable: setup.Trainable, cfg: config.Config, machine: devices.Runtime
) -> tf.types.experimental.PolymorphicFunction:
    """The compiled step function of the loop."""
    return step.build(
        trainable,
        data=cfg.data,
        train=cfg.train,
        optim=cfg.optim,
        strategy=machine.strategy,
        jit_compile=machine.jit_compile,
    )


def command(workdir, data_dir: str, **changes: object) -> list[str]:
    """`python -m tools.train` on the tiny config, for `warm.start`."""
    changed = {name.replace("__", "."): str(value) for name, value in changes.items()}
    return [
        "-m",
        "tools.train",
        "--config=tests/support/tiny_config.py",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        *(f"--config.{k}={v}" for k, v in changed.items()),
    ]


def rows(workdir) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    return [
        {k: v for k, v in row.items() if k not in run_directory.TIMING_FIELDS}
        for row in run_directory.read_rows(str(workdir))
    ]


def newest_state(workdir) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint: weights, optimizer, iterations."""
    folder = max((pathlib.Path(workdir) / "checkpoints").glob("step_*"))
    reader = tf.train.load_checkpoint(str(folder / "state"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith("_CHECKPOINTABLE") and "save_counter" not in name
    }


def shown(folder) -> collections.Counter:
    """How often TensorBoard is given each picture (step, name) by a folder's events."""
    found = collections.Counter()
    for path in pathlib.Path(folder).glob("events.*"):
        for row in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(row.numpy())
            for value in event.summary.value:
                size, _, png = value.tensor.string_val[:3]
                assert png.startswith(b"\x89PNG") and int(size) > 100
                found[event.step, value.tag] += 1
    return found


def result(workdir) -> dict:
    return json.loads((pathlib.Path(workdir) / "result.json").read_text())
