"""A function of weights and images, compiled for a batch, on either of Keras' backends.

Only the one that `keras.backend.backend()` names is imported: TensorFlow or JAX. Weights
are arguments, so that no compiler takes them for constants.
"""

import contextlib
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from vit_tf import errors


class DoesNotRun(Exception):
    """A batch that does not fit the device, or that its library cannot compute.

    Attributes:
        memory: whether it is for want of memory.
    """

    def __init__(self, text: str, *, memory: bool):
        super().__init__(text)
        self.memory = memory


def find():
    """Finds the backend that Keras computes with, and the device that it computes on.

    It has `name`, `kind` ('cpu', 'gpu' or 'tpu'), `memory` (bytes, or None where the
    device does not say), `version`, `watches_process` (whether memory is what the
    process takes) and `program(function, weights, image_shape)`. Of a program
    `ready(batch)` gives a function that runs it some number of times and waits, and
    `bytes_of(batch)` what it takes of the memory, where that is known.

    Raises:
        errors.UserError: another backend.
    """
    name = keras.backend.backend()
    known = {"jax": _Jax, "tensorflow": _TensorFlow}
    if name not in known:
        raise errors.UserError(f"KERAS_BACKEND={name}: need {' or '.join(known)}")
    return known[name]()


def device() -> dict[str, Any]:
    """Describes the device that is computed on: name, kind, memory in bytes, versions."""
    backend, library = find(), keras.backend.backend()
    return {
        "device": backend.name,
        "kind": backend.kind,
        "memory_bytes": backend.memory,
        "backend": library,
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            library: backend.version,
        },
    }


def noise(shape) -> np.ndarray:
    """Makes random float32, the same block of numbers again and again."""
    block = np.random.default_rng(0).normal(0.0, 0.02, 2**16).astype(np.float32)
    return np.resize(block, tuple(shape))


def _machine_bytes() -> float | None:
    """Returns the memory of this machine, or what its container may take of it."""
    sizes = []
    status = pathlib.Path("/proc/meminfo")
    if status.exists():
        (line,) = [x for x in status.read_text().splitlines() if "MemTotal" in x]
        sizes.append(1024.0 * int(line.split()[1]))
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        sizes.append(float(text))
    return min(sizes, default=None)


def _processor() -> str:
    """Returns what the CPU calls itself, and how many cores this process may use."""
    name, about = platform.machine(), pathlib.Path("/proc/cpuinfo")
    if about.exists():
        lines = about.read_text().splitlines()
        named = [x.partition(":")[2].strip() for x in lines if "model name" in x]
        name = named[0] if named else name
    return f"{len(os.sched_getaffinity(0))} x {name}"


def peak_bytes() -> float | None:
    """Returns the most memory that this process has taken; None
    where Linux does not say.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = [x for x in status.read_text().splitlines() if "VmHWM" in x]
    return 1024.0 * int(line.split()[1])


def _forget_peak() -> None:
    """Lets `peak_bytes` begin anew from what the process takes now, on Linux."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


class _Jax:
    """JAX: a program for each batch size, whose memory its compiler tells."""

    watches_process = False

    def __init__(self):
        import jax

        self._jax, self.version = jax, jax.__version__
        device_of_jax = jax.devices()[0]
        self.kind, self.name = device_of_jax.platform, device_of_jax.device_kind
        stats = device_of_jax.memory_stats() if self.kind != "cpu" else None
        self.memory = (stats or {}).get("bytes_limit") or (
            _machine_bytes() if self.kind == "cpu" else None
        )
        if self.kind == "cpu":
            self.name = _processor()

    def program(self, call, weights, shape):
        return _JaxProgram(self._jax, call, weights, shape)


class _JaxProgram:
    def __init__(self, jax, call, weights, shape):
        self._jax, self._call, self._weights, self._shape = jax, call, weights, shape
        self._compiled: tuple[int, Any] | None = None

    def ready(self, batch: int) -> Callable[..., None]:
        """Compiles for a batch; the one before is let go."""
        jax, jnp = self._jax, self._jax.numpy
        self._compiled = None
        dtype = self._image_dtype()
        spec = jax.ShapeDtypeStruct((batch, *self._shape), dtype)
        with _refusing():
            program = jax.jit(self._call).lower(*self._weights, spec).compile()
        self._compiled = (batch, program)
        held: list = []

        def run(calls: int = 1) -> None:
            with _refusing():
                if not held:  # nothing of the batch is there before it is needed
                    image = jnp.asarray(noise(self._shape), dtype) * 50
                    held.append(jnp.broadcast_to(image, spec.shape))
                for _ in range(calls):
                    outputs = program(*self._weights, held[0])
                jax.block_until_ready(outputs)

        return run

    def bytes_of(self, batch: int) -> float | None:
        """Counts weights, images, intermediates and logits of the compiled batch."""
        if self._compiled is None or self._compiled[0] != batch:
            return None
        analysis = self._compiled[1].memory_analysis()
        if analysis is None:
            return None
        return float(
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            + analysis.temp_size_in_bytes
            - analysis.alias_size_in_bytes
        )

    def _image_dtype(self):
        kinds = {str(w.dtype) for w in self._weights[0]}
        return "bfloat16" if "bfloat16" in kinds else "float32"


class _TensorFlow:
    """TensorFlow: XLA on accelerators, where a batch fits if it runs."""

    def __init__(self):
        import tensorflow as tf

        self._tf, self.version = tf, tf.__version__
        gpus = tf.config.list_physical_devices("GPU")
        self.kind = "gpu" if gpus else "cpu"
        self.watches_process = self.kind == "cpu"
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            self.name = details.get("device_name", "GPU")
            self.memory = None  # not told before it is used up
        else:
            self.name = _processor()
            self.memory = _machine_bytes()

    def program(self, call, weights, shape):
        return TensorFlowProgram(self, call, weights, shape)


class TensorFlowProgram:
    def __init__(self, backend: _TensorFlow, call, weights, shape):
        tf = self._tf = backend._tf
        self._shape, self._weights, self._backend = shape, weights, backend
        _forget_peak()  # that of making the weights
        kinds = {w.dtype for w in weights[0]}
        self._dtype = tf.bfloat16 if tf.bfloat16 in kinds else tf.float32
        self._function = tf.function(
            call, autograph=False, jit_compile=backend.kind != "cpu"
        )

    def ready(self, batch: int) -> Callable[..., None]:
        tf, held = self._tf, []

        def run(calls: int = 1) -> None:
            with _refusing():
                if not held:
                    image = tf.cast(noise(self._shape) * 50, self._dtype)
                    held.append(tf.tile(image[None], (batch, 1, 1, 1)))
                for _ in range(calls):
                    outputs = self._function(*self._weights, held[0])
                outputs.numpy()

        return run

    def bytes_of(self, batch: int) -> float | None:
        """Returns what the process has taken at most, if nothing else is known."""
        return peak_bytes() if self._backend.watches_process else None


class _refusing:
    """Turns what a backend raises into `DoesNotRun`."""

    _MEMORY = ("RESOURCE_EXHAUSTED", "ResourceExhausted", "ut of memory", "OOM")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, Exception):
            return
        text = f"{kind.__name__}: {error}"
        memory = any(word in text for word in self._MEMORY)
        reason = "out of memory" if memory else text.splitlines()[0][:120]
        raise DoesNotRun(reason, memory=memory) from (None if memory else error)
