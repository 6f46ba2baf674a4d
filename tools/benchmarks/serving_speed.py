"""Images per second of exports in TensorFlow's C++ runtime, beside PyTorch.

The same weights everywhere: a model is made, written in the released layout, exported
in several ways, and read by timm from that file. All take turns in one run, because a
machine's speed drifts.
"""

import contextlib
import dataclasses
import functools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tools.benchmarks import speed
from vit_tf import config, errors
from vit_tf.models import build
from vit_tf.runs import stored_weights
from vit_tf.serving import c_runtime, saved_model, serving_signatures

_WARM_UP = 2  # calls that lay out weights and fill caches

BFLOAT16, FLOAT32 = config.Precision.MIXED_BFLOAT16, config.Precision.FLOAT32

# How the model is exported. The last is what Keras' own graph would be.
EXPORTS = {
    "export, bfloat16": {"precision": BFLOAT16},
    "export, float32": {"precision": FLOAT32},
    "plain graph, bfloat16": {
        "precision": BFLOAT16,
        "weights": serving_signatures.Weights.VARIABLES,
    },
}

# Batch of images -> logits or probabilities (batch, classes), and the seconds it took.
_Ask = Callable[[np.ndarray], tuple[np.ndarray, float]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        rates: 'contestant, batch n' -> images per second.
        seconds_by_op: of the bfloat16 export at the largest batch, longest first.
        agreement: contestant -> largest difference of a probability from float32's.
    """

    rates: dict[str, speed.Rate]
    seconds_by_op: dict[str, float]
    agreement: dict[str, float]


def compare(
    cfg: config.Config,
    *,
    batches: Sequence[int],
    rounds: int,
    torch_python: str | None,
    torch_script: str,
) -> Found:
    """Measures the model of a config, with random weights and 1,000 classes.

    Args:
        cfg: its model and image size are used.
        batches: images in a call.
        rounds: timed calls of each contestant at each batch, in turns.
        torch_python: an interpreter with torch and timm; None: without them.
        torch_script: tools/benchmarks/torch_vit.py.

    Raises:
        errors.UserError: no C++ loader here, or PyTorch cannot run this model.
    """
    draw = np.random.default_rng(0)
    size = cfg.data.image_size
    pixels = draw.uniform(-1, 1, (max(batches), size, size, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = os.path.join(folder, "weights.npz")
        stored_weights.save_weights(_filled(cfg, draw), path)
        models = {
            name: stack.enter_context(_exported(path, folder, name, how, size))
            for name, how in EXPORTS.items()
        }
        asks = {name: functools.partial(_timed, m) for name, m in models.items()}
        if torch_python is not None:
            for dtype in ("bfloat16", "float32"):
                torch = _torch(torch_python, torch_script, path, cfg, dtype)
                asks[f"PyTorch eager, {dtype}"] = stack.enter_context(torch)
        rates = _take_turns(asks, pixels, batches, rounds)
        few = pixels[:4]
        wanted = asks["export, float32"](few)[0]
        agreement = {
            name: float(np.abs(ask(few)[0] - wanted).max())
            for name, ask in asks.items()
        }
        profile = models["export, bfloat16"].seconds_by_op(
            "serving_tensor", {"images": pixels}
        )
    return Found(rates, profile, agreement)


def _filled(cfg: config.Config, draw: np.random.Generator) -> keras.Model:
    """Fills the model as it starts with biases and scales that no
    rewriter could leave out.
    """
    model = build.build(
        cfg.model, num_classes=1000, image_size=cfg.data.image_size, dtype="float32"
    )
    for v in model.variables:
        if v.name in ("bias", "scale") or "head" in v.path.split("/"):
            v.assign(v.numpy() + draw.normal(0, 0.02, v.shape))
    return model


@contextlib.contextmanager
def _exported(path, folder, name, how, size) -> Iterator[c_runtime.Model]:
    request = saved_model.Request(
        checkpoint=path,
        to=folder,
        name="".join(c for c in name if c.isalnum()),
        options=serving_signatures.Options(**how),
        image_size=size,
    )
    with c_runtime.Model(saved_model.saved_model(request).path) as model:
        yield model


def _timed(model: c_runtime.Model, images: np.ndarray) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    outputs = model("serving_tensor", {"images": images})["probabilities"]
    return outputs, time.perf_counter() - began


@contextlib.contextmanager
def _torch(python, script, path, cfg, dtype) -> Iterator[_Ask]:
    """Starts a process that keeps the model, answers a file with a
    file and gives the seconds.
    """
    given, answer = (os.path.join(os.path.dirname(path), n) for n in ("x.npy", "y.npy"))
    process = subprocess.Popen(
        [python, script, path, cfg.model.variant, dtype, given, answer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def ask(images: np.ndarray) -> tuple[np.ndarray, float]:
        np.save(given, images)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("go\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            last = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise errors.UserError(
                f"--torch_python={python}: {last}; name an interpreter with torch and "
                "timm, and a variant that timm has"
            )
        return np.load(answer), float(line)

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()


def _take_turns(asks, pixels, batches, rounds) -> dict[str, speed.Rate]:
    rates = {}
    for batch in batches:
        images = pixels[:batch]
        for ask in asks.values():
            for _ in range(_WARM_UP):
                ask(images)
        for _ in range(rounds):
            for name, ask in asks.items():
                key = f"{name}, batch {batch}"
                rates.setdefault(key, []).append(batch / ask(images)[1])
    return {
        name: speed.Rate(statistics.median(seconds), min(seconds), max(seconds))
        for name, seconds in rates.items()
    }
