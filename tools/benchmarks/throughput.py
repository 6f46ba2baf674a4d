"""Figure 12: images per second, and the largest batch, of models over image sizes.

Inference on one device, by Keras' TensorFlow or JAX: random weights, never zero; images
that lie on the device. As in D.5 a rate is the best over batch sizes.
"""

import concurrent.futures
import dataclasses
import math
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable

import keras

from tools.benchmarks import programs
from vit_tf import config, errors
from vit_tf.costs import flops
from vit_tf.models import build

NUM_CLASSES = 1000

_FASTER = 1.03  # a batch counts as faster than the best so far from this share on
_NEAR = 1.03  # how near what fits and what does not are when the search ends
# A process that grows by less of the memory may have grown by other than its images.
_SEEN = 1 / 32
# The largest batch is not told when time ran out with less than this share of memory.
_TELLING = 0.25
_NO_TIME = "the time limit of a point"
# The first batch on an accelerator: multiply-accumulates for milliseconds; images.
_FIRST_MACS, _LARGEST_FIRST = 1e12, 4096


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a point is measured.

    Attributes:
        dtype: 'bfloat16' (matrices too) or 'float32'.
        seconds: that the rate of one batch size is timed for, at least.
        repeats: timed rounds, of which the median counts.
        growth: from one batch size to the next.
        max_batch: no batch is larger.
        point_seconds: after which no further batch of a point is begun; half of it
            is for rates.
    """

    dtype: str
    seconds: float = 1.0
    repeats: int = 3
    growth: int = 2
    max_batch: int = 65_536
    point_seconds: float = 300.0


@dataclasses.dataclass
class Point:
    """One model at one image size.

    Attributes:
        model: its name.
        image_size: pixels of a side, as the paper has them on its axis.
        pixels: that the model sees of them, see `seen_pixels`.
        images_per_second: the best over `rates`; None: nothing ran.
        batch_size: at which.
        rates: batch size, median, slowest and fastest round.
        rates_end: why no other batch was tried.
        faster_at_least: whether a limit of time or batch ended that while rates grew.
        largest_batch: images of the largest batch that fits; None: not found.
        largest_how: how it was found.
        at_least: whether a limit of batch or time ended the search for it.
        image_bytes: memory that one more image takes.
        fixed_bytes: memory that is taken whatever the batch.
        seconds: that measuring took, with compilation.
    """

    model: str
    image_size: int
    pixels: int
    images_per_second: float | None = None
    batch_size: int | None = None
    rates: list[list[float]] = dataclasses.field(default_factory=list)
    rates_end: str = ""
    faster_at_least: bool = False
    largest_batch: int | None = None
    largest_how: str = ""
    at_least: bool = False
    image_bytes: float | None = None
    fixed_bytes: float | None = None
    seconds: float = 0.0


def measure(model: str, image_size: int, settings: Settings) -> Point:
    """Measures the point of a model at an image size.

    On a CPU under TensorFlow the memory of a fresh process is watched, because that
    of a process never falls and too much of it kills.

    Raises:
        errors.UserError: no such model, or not at this size.
    """
    backend = programs.find()
    if not backend.watches_process:
        return measure_in(model, image_size, settings)
    with concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is the parent's
    ) as pool:
        try:
            return pool.submit(measure_in, model, image_size, settings).result()
        except concurrent.futures.process.BrokenProcessPool:
            pixels = seen_pixels(model, image_size)
            return Point(model, image_size, pixels, rates_end="the process was killed")
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):
                process.kill()
            raise


def check(model: str, image_size: int) -> None:
    """Refuses a model that there is not, or images smaller than one of its patches."""
    if image_size < (stride := build.token_stride(config.Model(variant=model))):
        raise errors.UserError(
            f"image size {image_size}: {model} needs {stride} pixels at least"
        )


def seen_pixels(model: str, image_size: int) -> int:
    """Counts the pixels of a side that a model sees: whole patches of it.

    The paper measures ViT-H/14 at 64, 128, 384 and 512 pixels, which a convolution
    without padding cuts to multiples of 14; our models refuse to cut unasked.
    """
    if "ViT" not in model:
        return image_size
    stride = build.token_stride(config.Model(variant=model))
    return image_size // stride * stride


def measure_in(model: str, image_size: int, settings: Settings) -> Point:
    began = time.monotonic()
    point = Point(model, image_size, seen_pixels(model, image_size))
    work = _Work(model, point.pixels, settings, programs.find())
    _climb(work, point, settings, until=began + settings.point_seconds / 2)
    if point.rates:
        point.batch_size = _best(point)
        point.images_per_second = max(row[1] for row in point.rates)
        work.find_largest(point, until=began + settings.point_seconds)
    point.seconds = round(time.monotonic() - began, 1)
    return point


def _climb(work: "_Work", point: Point, settings: Settings, *, until: float) -> None:
    """Rates of growing batches while they grow; of smaller ones if the first is best.

    Raises:
        programs.DoesNotRun: not even one image runs, and not for want of memory.
    """
    first, growth = work.first_batch(), settings.growth
    larger, smaller = [first], []
    while larger[-1] < settings.max_batch:
        larger.append(min(larger[-1] * growth, settings.max_batch))
    while first > 1:
        smaller.append(first := max(1, first // growth))
    ended = _time_all(work, point, larger, until)
    point.rates_end = ended or f"the limit of {settings.max_batch:,} images"
    point.faster_at_least = ended in ("", _NO_TIME)
    for batch in smaller if not point.rates else ():
        point.rates_end = _time_all(work, point, [batch], until)
        if point.rates:
            break
    if not point.rates:
        if work.fault is not None:
            raise work.fault
    elif _best(point) == (lowest := min(row[0] for row in point.rates)):
        _time_all(work, point, [b for b in smaller if b < lowest], until)


def _time_all(work: "_Work", point: Point, batches: list[int], until: float) -> str:
    """Times batches until they are no faster than those before; says why it ended."""
    idle, patience = 0, 2 if work.backend.kind == "cpu" else 1  # CPUs are shared
    for batch in batches:
        best = max((row[1] for row in point.rates), default=0.0)
        if point.rates and time.monotonic() > until:
            return _NO_TIME
        if not work.may_fit(batch):
            return "memory would run out"
        try:
            rounds = work.time(batch)
        except programs.DoesNotRun as error:
            return str(error)
        rate = statistics.median(rounds)
        point.rates.append([batch, rate, min(rounds), max(rounds)])
        idle = idle + 1 if rate <= _FASTER * best else 0
        if idle == patience:
            return "no faster"
    return ""


def _best(point: Point) -> int:
    return int(max(point.rates, key=lambda row: row[1])[0])


class _Work:
    """A model's inference at one size, for any batch."""

    def __init__(self, model: str, image_size: int, settings: Settings, backend):
        self.settings, self.backend = settings, backend
        policy = {"bfloat16": "mixed_bfloat16"}.get(settings.dtype, settings.dtype)
        self.network = build.outline(
            config.Model(variant=model),
            num_classes=NUM_CLASSES,
            image_size=image_size,
            dtype=policy,
        )
        self.weights = [
            [self._values(v) for v in variables]
            for variables in (
                self.network.trainable_variables,
                self.network.non_trainable_variables,
            )
        ]
        self.program = backend.program(
            lambda *given: self.network.stateless_call(*given)[0],
            self.weights,
            (image_size, image_size, 3),
        )
        self.bytes: dict[int, float] = {}  # of batches, by the compiler or the process
        self.failed: dict[int, str] = {}
        self.fault: programs.DoesNotRun | None = None  # not for want of memory

    def first_batch(self) -> int:
        """Chooses a batch of milliseconds on an accelerator; 1 on a CPU."""
        if self.backend.kind == "cpu":
            return 1
        images = _FIRST_MACS / max(1, flops.forward_macs(self.network))
        power = max(0, round(math.log2(images)))
        return min(2**power, _LARGEST_FIRST, self.settings.max_batch)

    def may_fit(self, batch: int) -> bool:
        """Returns False where the last two batches foretell that this one is too large."""
        if self.backend.kind != "cpu" or len(self.bytes) < 2:
            return True
        fixed, each = self.line()
        return fixed + each * batch < 0.6 * self.backend.memory

    def time(self, batch: int) -> list[float]:
        """Times images per second of each round.

        Raises:
            programs.DoesNotRun: it does not fit, or cannot be computed.
        """
        settings = self.settings
        try:
            run = self.program.ready(batch)
            run()  # compiled, loaded, allocated
        except programs.DoesNotRun as error:
            self.failed[batch] = str(error)
            self.fault = None if error.memory else error
            raise
        self._note(batch)
        once = _seconds(run, 1)
        calls = max(1, math.ceil(settings.seconds / settings.repeats / once))
        rounds = max(1, min(settings.repeats, math.ceil(settings.seconds / once)))
        return [batch * calls / _seconds(run, calls) for _ in range(rounds)]

    def fits(self, batch: int, *, runs: bool) -> bool:
        """Returns whether the compiler, and if asked a run, finds that a batch fits."""
        try:
            run = self.program.ready(batch)
            self._note(batch)
            if self.bytes.get(batch, 0.0) > (self.backend.memory or math.inf):
                return False
            if runs:
                run()
                self._note(batch)
        except programs.DoesNotRun as error:
            self.failed[batch] = str(error)
            return False
        return True

    def line(self) -> tuple[float, float]:
        """Bytes that are always taken, and of each image, by the two largest batches."""
        (low, least), (high, most) = sorted(self.bytes.items())[-2:]
        each = max(0.0, (most - least) / (high - low))
        return least - each * low, each

    def find_largest(self, point: Point, *, until: float) -> None:
        """Sets what is known of the largest batch."""
        watches = self.backend.watches_process
        if watches:
            self._grow(until=until)
        if self._seen() if watches else len(self.bytes) > 1 and self.line()[1] > 0:
            point.fixed_bytes, point.image_bytes = self.line()
        self._extrapolate(point) if watches else self._search(point, until=until)

    def _grow(self, *, until: float) -> None:
        """Runs larger batches, untimed, until the process is seen to grow by them."""
        while True:
            if self._seen():
                return
            batch = max(self.bytes) * self.settings.growth
            late = len(self.bytes) > 1 and time.monotonic() > until
            if late or batch > self.settings.max_batch or not self.may_fit(batch):
                return
            if not self.fits(batch, runs=True):
                return

    def _seen(self) -> bool:
        """Returns whether the process grew enough between the two largest batches."""
        if len(self.bytes) < 2:
            return False
        least, most = [self.bytes[batch] for batch in sorted(self.bytes)[-2:]]
        return most - least >= _SEEN * self.backend.memory

    def _extrapolate(self, point: Point) -> None:
        """Extrapolates the growth of a process' memory: none of these batches is run."""
        if not self._seen():
            last = f"{max(self.bytes):,}"
            point.largest_how = f"not found: memory grew too little up to batch {last}"
            return
        free = max(0.0, self.backend.memory - point.fixed_bytes)
        point.largest_batch = int(free / point.image_bytes)
        batches = " and ".join(f"{batch:,}" for batch in sorted(self.bytes)[-2:])
        point.largest_how = (
            f"computed: the peak memory of the process at batches {batches}, continued "
            f"to the machine's {self.backend.memory / 2**30:.1f} GiB"
        )

    def _search(self, point: Point, *, until: float) -> None:
        """Searches between what fits and what does not, by compiler and runs."""
        runs = self.backend.kind != "cpu"
        low = max(int(row[0]) for row in point.rates)
        high = min((b for b in self.failed if b > low), default=None)
        cap, end, tries = self.settings.max_batch, "", 0
        while high is None or high > _NEAR * low:
            if low >= cap:
                end = f"; the limit of {cap:,} images"
                break
            if tries and time.monotonic() > until:
                end = f"; {_NO_TIME}"
                break
            tries += 1
            batch = self._next(low, high, cap)
            if batch <= low:
                break
            if self.fits(batch, runs=runs):
                low = batch
                spent = self.bytes.get(batch, 0.0) / (self.backend.memory or math.inf)
                if spent * _NEAR > 1:
                    break  # one more image in thirty would not fit
            else:
                high = batch
        point.largest_batch = low
        how = "ran" if runs else "compiled, not run"
        if self.backend.memory and low in self.bytes:
            share = self.bytes[low] / self.backend.memory
            how += f": {100 * share:.0f} % of the device's memory by the compiler"
        if high is not None:
            reason = self.failed.get(high, "too large by the compiler")
            how += f"; {high:,} did not fit ({reason})"
        point.largest_how, point.at_least = how + end, bool(end)
        filled = self.bytes.get(low, math.inf) / (self.backend.memory or math.inf)
        if _NO_TIME in end and filled < _TELLING:
            point.largest_batch, point.at_least = None, False
            point.largest_how = f"not found in time; {low:,} {how}"

    def _next(self, low: int, high: int | None, cap: int) -> int:
        """Chooses the batch to try: where memory ends by the compiler, else by halving."""
        guess = 2 * low if high is None else (low + high) // 2
        if self.backend.memory and len(self.bytes) >= 2:
            fixed, each = self.line()
            full = int((self.backend.memory - fixed) / each) if each else 0
            if high is not None and full >= high:
                # The compiler is wrong about this device; by how much is not known.
                full = int(high / _NEAR ** (2 ** len(self.failed)))
            if low < full and (high is None or full < high):
                guess = full
        return min(guess, cap)

    def _note(self, batch: int) -> None:
        if (taken := self.program.bytes_of(batch)) is not None:
            self.bytes[batch] = taken

    def _values(self, variable):
        """Draws small random numbers; in bfloat16 but for what norms and biases have."""
        dtype = variable.dtype
        if self.settings.dtype == "bfloat16" and len(variable.shape) > 1:
            dtype = "bfloat16"
        return keras.ops.convert_to_tensor(programs.noise(variable.shape), dtype=dtype)


def _seconds(run: Callable[[int], None], calls: int) -> float:
    began = time.perf_counter()
    run(calls)
    return time.perf_counter() - began
