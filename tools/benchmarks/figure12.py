"""`--what=figure12` of the benchmark: its grid, its file, which goes on, its figure."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time
from typing import Any

from absl import flags

from experiments import figure12_speed
from tools import command
from tools.flags import number_flags, path_flags
from tools.reporting import plot_svg, speed_tables
from vit_tf import errors
from vit_tf.runtime import timing

_MODELS = flags.DEFINE_list(
    "models", list(figure12_speed.MODELS), "Of figure12: which models."
)
_SIZES = number_flags.define_integers(
    "sizes",
    list(figure12_speed.SIZES),
    "Of figure12: pixels of a side.",
    upper=number_flags.MAX_PIXELS,
)
_JSON = path_flags.define_path(
    "json",
    None,
    "Of figure12: the file that it writes and goes on from; by default "
    "runs/figure12/DEVICE.json. Its two panels are drawn beside it, as .svg.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of figure12: of weights and images; by default bfloat16 but on CPUs.",
)
_SECONDS = number_flags.define_float(
    "seconds", 1.0, "Of figure12: for each batch size, at least.", lower=0.0
)
_GROWTH = number_flags.define_integer(
    "growth", 2, "Of figure12: from one batch size to the next.", lower=2, upper=1_024
)
_MAX_BATCH = number_flags.define_integer(
    "max_batch",
    65_536,
    "Of figure12: no batch is larger.",
    upper=number_flags.MAX_BATCH,
)
_POINT_SECONDS = number_flags.define_float(
    "point_seconds",
    300.0,
    "Of figure12: after which no further batch of a model and size is begun.",
    lower=0.0,
)


def run() -> None:
    """Measures what is missing in the file, a line for each point."""
    if not _MODELS.value:
        raise errors.UserError("--models=: need models, such as ViT-B/16,R50x1")
    path_flags.check_file(_JSON)
    sizes = _SIZES.value
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise errors.UserError(
            f"KERAS_BACKEND={backend}: --what=figure12 takes tensorflow or jax"
        )
    if backend == "tensorflow":
        command.load_tensorflow()
    else:
        # What is not taken at the start cannot be found by a search for the largest.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    from tools.benchmarks import programs, throughput

    for model in _MODELS.value:
        for size in sizes:
            throughput.check(model, size)
    device = programs.device()
    settings = throughput.Settings(
        dtype=_DTYPE.value or ("float32" if device["kind"] == "cpu" else "bfloat16"),
        seconds=_SECONDS.value,
        growth=_GROWTH.value,
        max_batch=_MAX_BATCH.value,
        point_seconds=_POINT_SECONDS.value,
    )
    name = re.sub(r"\W+", "_", f"{device['device']} {settings.dtype}").strip("_")
    path = pathlib.Path(_JSON.value or f"runs/figure12/{name}.json")
    content = _opened(path, device, settings)
    _measure_missing(content, path, settings, sizes)
    print(path)
    for measure, panel in speed_tables.panels(content).items():
        drawn = path.with_suffix(f".{measure}.svg")
        drawn.write_text(plot_svg.draw(panel), "utf-8")
        print(drawn)


def _measure_missing(content, path, settings, sizes) -> None:
    from tools.benchmarks import throughput

    done = {
        (point["model"], point["image_size"])
        for point in content["points"]
        if point["images_per_second"] is not None
    }
    grid = [(model, size) for model in _MODELS.value for size in sizes]
    missing = [place for place in grid if place not in done]
    if len(missing) < len(grid):
        print(f"{len(grid) - len(missing)} of {len(grid)} points are in {path}")
    began = time.monotonic()
    for number, (model, size) in enumerate(missing, 1):
        quiet = (
            command.quiet_stderr if content["kind"] == "cpu" else contextlib.nullcontext
        )
        with quiet():  # what a fresh process' libraries say
            point = throughput.measure(model, size, settings)
        _put(content, dataclasses.asdict(point), dataclasses.asdict(settings))
        _write(path, content)
        left = (time.monotonic() - began) / number * (len(missing) - number)
        print(f"{_said(point)}; {timing.format_seconds(left)} left", flush=True)


def _said(point) -> str:
    place = f"{point.model} at {point.image_size}"
    if point.images_per_second is None:
        return f"{place}: no batch ran ({point.rates_end})"
    largest = "largest batch not found"
    if point.largest_batch is not None:
        largest = f"largest batch {point.largest_batch:,}"
    return (
        f"{place}: {point.images_per_second:,.1f} images/s at batch "
        f"{point.batch_size:,}, {largest}, {point.seconds:.0f} s"
    )


def _opened(path: pathlib.Path, device, settings) -> dict[str, Any]:
    """Reads the file, if it is of this device and these settings, else makes a new one.

    Raises:
        errors.UserError: it is of others, or no such file.
    """
    ours = {
        "what": "figure12",
        **device,
        "settings": dataclasses.asdict(settings),
        "points": [],
    }
    if not path.exists():
        return ours
    try:
        theirs = json.loads(path.read_text())
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict) or theirs.get("what") != "figure12":
        raise errors.UserError(f"--json={path}: not a file of --what=figure12")
    for name in ("device", "backend"):
        if theirs[name] != ours[name]:
            raise errors.UserError(
                f"--json={path}: holds {theirs[name]!r}, this is {ours[name]!r}; name "
                "another file"
            )
    kept, now = theirs["settings"]["dtype"], settings.dtype
    if kept != now:
        raise errors.UserError(
            f"--json={path}: holds {kept}, this is {now}; see --dtype"
        )
    return ours | {"settings": theirs["settings"], "points": theirs["points"]}


def _put(content: dict[str, Any], point: dict[str, Any], settings) -> None:
    """Adds a point in the place of an earlier try.

    It says by which settings it was measured, if by others than the file's first.
    """
    other = {k: v for k, v in settings.items() if v != content["settings"].get(k)}
    if other:
        point["settings"] = other
    place, points = (point["model"], point["image_size"]), content["points"]
    points[:] = [p for p in points if (p["model"], p["image_size"]) != place]
    points.append(point)


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes the whole file or leaves the one before; a line for each point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {k: v for k, v in content.items() if k != "points"}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items()]
    rows = ",\n".join(json.dumps(point) for point in content["points"])
    lines.append(f'"points": [\n{rows}\n]')
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(unfinished, path)
