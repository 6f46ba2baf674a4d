"""Images per second of a model, of its input, and of the loop around its step.

python -m tools.benchmark --list
python -m tools.benchmark --variant=ViT-S/16 --batch_size=16
python -m tools.benchmark --what=input --folder=PHOTOS
python -m tools.benchmark --what=loader --folder=PHOTOS --torch_python=PYTHON
python -m tools.benchmark --what=loop --variant=ViT-S/16 --batch_size=16
python -m tools.benchmark --what=serving --variant=ViT-B/16 --torch_python=PYTHON
python -m tools.benchmark --what=figure12 --models=R50x1,ViT-B/32 --sizes=64,128,224
"""

import itertools
import pathlib

from absl import flags

from tools import command
from tools.benchmarks import figure12
from tools.flags import data_flags, model_flags, number_flags, path_flags
from vit_tf import config, errors

_WHAT = flags.DEFINE_enum(
    "what",
    "model",
    ["model", "input", "loader", "loop", "serving", "figure12"],
    "model: inference and training step, float32 and bfloat16, XLA off and on. "
    "input: the training stream of --dataset, or crops of JPEGs in --folder. "
    "loader: the whole stream of the images in --folder, plain and with RandAugment "
    "and mixup, and PyTorch's loader beside it. "
    "loop: what the loop costs over the bare compiled step; memory with and without "
    "accumulation and remat, sums over replicas, seconds to the first step. "
    "serving: exports in TensorFlow's C++ runtime at batch 1 and 16, and PyTorch. "
    "figure12: inference of --models at --sizes, and the largest batch; JAX will do.",
)
_LIST = flags.DEFINE_boolean(
    "list",
    False,
    "Lists all models with parameters, tokens and multiply-accumulates of the "
    "forward pass at --image_size, and where weights were released.",
)
_VARIANT = model_flags.define_variant("Which model.", "ViT-S/16")
_IMAGE_SIZE = model_flags.define_image_size("Pixels.", 224)
_BATCH_SIZE = model_flags.define_batch_size(16, "Images.")
_ROUNDS = number_flags.define_integer(
    "rounds", 5, "Timed rounds of each.", upper=10_000
)
_DATASET = flags.DEFINE_string("dataset", "digits", "For input and loop.")
_FOLDER = path_flags.define_path("folder", None, "JPEG files, for --what=input.")
_TORCH = path_flags.define_path(
    "torch_python",
    None,
    "The interpreter of an environment with torch, and torchvision for --what=loader "
    "or timm for --what=serving.",
)
_DATA_DIR = data_flags.define_data_dir()


def main() -> None:
    if _WHAT.value == "figure12" and not _LIST.value:
        figure12.run()
        return
    cfg = config.Config(
        model=config.Model(variant=_VARIANT.value),
        data=config.Data(
            name=_DATASET.value,
            image_size=_IMAGE_SIZE.value,
            batch_size=_BATCH_SIZE.value,
        ),
        optim=config.Optim(weight_decay=0.1, clip_norm=1.0),
        evals=config.Evals(splits=()),
    )
    command.load_tensorflow()
    if _LIST.value:
        _list(_IMAGE_SIZE.value)
        return
    from vit_tf.runtime import devices

    machine = devices.start(cfg.train, strategy=devices.Strategy.ONE)
    works = {
        "model": _model,
        "input": _input,
        "loader": _loader,
        "loop": _loop,
        "serving": _serving,
    }
    rates = works[_WHAT.value](cfg, machine)
    width = max(map(len, rates))
    print(f"{'images/s':<{width}}  {'median':>9} {'slowest':>9} {'fastest':>9}")
    for name, rate in rates.items():
        print(
            f"{name:<{width}}  {rate.median:9.1f} {rate.slowest:9.1f} "
            f"{rate.fastest:9.1f}"
        )
    if _WHAT.value == "loop":
        share = rates["bare step"].median / rates["loop"].median - 1
        print(f"the loop costs {100 * share:+.1f} % over the bare step")
        _footprints(cfg)


def _footprints(cfg) -> None:
    from tools.benchmarks import footprint

    with command.quiet_stderr():  # TensorFlow's greeting, from every process
        footprints = footprint.compare(cfg, num_classes=1000)
    width = max(map(len, footprints))
    print(
        f"\n{'1000 classes, no input':<{width}}  {'peak MiB':>9} "
        f"{'first step s':>12} {'traces':>6} {'all-reduces':>11} {'of MiB':>7}"
    )
    for name, of in footprints.items():
        print(
            f"{name:<{width}}  {of.peak_mib:9.0f} {of.first_step_seconds:12.1f} "
            f"{of.traces:6} {of.all_reduces:11} {of.reduced_mib:7.1f}"
        )


def _list(image_size: int) -> None:
    from vit_tf.costs import flops
    from vit_tf.models import build

    width = max(map(len, build.NAMES))
    heads = ("parameters", "tokens", "GMAC", "released weights")
    print(f"{'':<{width}}  {heads[0]:>13} {heads[1]:>6} {heads[2]:>8}  {heads[3]}")
    for name, released in build.NAMES.items():
        try:
            cost = flops.count(config.Model(variant=name), image_size=image_size)
        except errors.UserError as refusal:
            print(f"{name:<{width}}  {refusal}")
            continue
        print(
            f"{name:<{width}}  {cost.parameters:13,} {cost.tokens or '-':>6} "
            f"{cost.macs / 1e9:8.2f}  {released or '-'}"
        )
    print(f"1000 classes, {image_size} pixels; GMAC without norms and head")


def _model(cfg, machine):
    from tools.benchmarks import speed

    rates = {}
    for precision, jit in itertools.product(config.Precision, (False, True)):
        # One model at a time: the large ones fill the memory.
        works = speed.model_works(cfg, precision=precision, jit_compile=jit)
        rates |= speed.compare(works, rounds=_ROUNDS.value)
    return rates


def _input(cfg, machine):
    from tools.benchmarks import speed

    if _FOLDER.value is None:
        work = speed.input_work(cfg, data_dir=_DATA_DIR.value, batches=10)
        return speed.compare({f"stream of {cfg.data.name}": work}, rounds=_ROUNDS.value)
    files = sorted(
        path
        for path in pathlib.Path(_FOLDER.value).rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg")
    )
    if not files:
        raise errors.UserError(f"--folder={_FOLDER.value}: no JPEG files there")
    works = speed.crop_works(
        [path.read_bytes() for path in files], image_size=cfg.data.image_size
    )
    return speed.compare(works, rounds=_ROUNDS.value)


def _loader(cfg, machine):
    from tools.benchmarks import speed

    if _FOLDER.value is None:
        raise errors.UserError("--what=loader: needs --folder=PATH with class folders")
    return speed.loaders(
        _FOLDER.value,
        cfg.data,
        rounds=_ROUNDS.value,
        torch_python=_TORCH.value,
        torch_script=str(pathlib.Path(__file__).parent / "torch_loader.py"),
    )


def _loop(cfg, machine):
    from tools.benchmarks import speed

    return speed.loop_overhead(
        cfg, machine=machine, data_dir=_DATA_DIR.value, turns=_ROUNDS.value, steps=6
    )


def _serving(cfg, machine):
    from tools.benchmarks import serving_speed

    with command.quiet_stderr():  # the runtime tells what it loads
        rates = serving_speed.compare(
            cfg,
            batches=(1, 16),
            rounds=_ROUNDS.value,
            torch_python=_TORCH.value,
            torch_script=str(pathlib.Path(__file__).parent / "torch_vit.py"),
        )
    for name, gap in rates.agreement.items():
        print(f"{name}: probabilities within {gap:.2g} of the float32 export's")
    total = sum(rates.seconds_by_op.values())
    print("\nwhere the time of the bfloat16 export goes, batch 16")
    for name, seconds in list(rates.seconds_by_op.items())[:8]:
        print(f"{name:<28} {1000 * seconds:8.1f} ms  {100 * seconds / total:5.1f} %")
    print()
    return rates.rates


if __name__ == "__main__":
    command.run(main)
