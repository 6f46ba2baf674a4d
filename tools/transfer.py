"""Fine-tunes a model on a data set as the paper does: choose, then repeat on all of it.

python -m tools.transfer --start_from=ViT-B_16.npz --dataset=oxford_iiit_pet \
    --workdir=runs/pets
python -m tools.transfer --start_from=runs/pretrain --dataset=photos \
    --workdir=runs/photos --steps=200 --config.data.batch_size=32

The same command resumes, and several processes may share one --workdir. It ends with
transfer.json, a confusion matrix and the worst mistakes.
"""

import pathlib

from absl import flags

from tools import command
from tools.flags import device_flags
from vit_tf import config, errors
from vit_tf.recipes import fine_tuning
from vit_tf.runtime import timing

_START_FROM = flags.DEFINE_string(
    "start_from",
    None,
    "A finished run's folder or a released .npz. None: from scratch, with --variant.",
)
_VARIANT = flags.DEFINE_string(
    "variant", None, "The model, such as ViT-B/16, where --start_from does not tell it."
)
_DATASET = flags.DEFINE_string(
    "dataset", None, "A prepared data set, or folder of images.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where all runs and the summary go.", required=True
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "paper",
    [str(protocol) for protocol in fine_tuning.Protocol],
    "paper: Table 4. table2: ImageNet as in Table 2. hyperrule: BiT's, with nothing to "
    "choose. augreg: the grid of 'How to train your ViT?'.",
)
_LRS = flags.DEFINE_list("lrs", None, "Learning rates to try instead.")
_STEPS = flags.DEFINE_integer(
    "steps", None, "Length of every run instead; warm-up is at most a fifth of it.", 1
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Pixels instead.", 1)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Final runs.", lower_bound=1)
_MISTAKES = flags.DEFINE_integer("mistakes", 24, "Pictures of them.", lower_bound=0)


def main() -> None:
    if _START_FROM.value is None and _VARIANT.value is None:
        raise errors.UserError(
            "--start_from is missing: name a finished run or a released .npz, or give "
            "--variant=ViT-B/16 to train from scratch"
        )
    rates = _rates()
    command.load_tensorflow()
    from vit_tf.data import catalog
    from vit_tf.runtime import devices
    from vit_tf.studies import transfer

    devices.start(
        config.Train(), **device_flags.chosen()
    )  # the data would start it otherwise
    source = catalog.open_source(_DATASET.value, device_flags.DATA_DIR.value)
    target = transfer.describe(source)
    candidates = _candidates(target, rates)
    transfer.check(source, target, candidates)
    _print_plan(target, candidates, source)
    outcome = transfer.run(
        target,
        candidates,
        _WORKDIR.value,
        seeds=_SEEDS.value,
        data_dir=device_flags.DATA_DIR.value,
        wait=device_flags.WAIT.value,
        **device_flags.chosen(),
    )
    if outcome is None:
        print("not finished: the same command goes on")
        raise SystemExit(command.STOPPED)
    _print_outcome(target, outcome)
    if not source.multi_label:
        _draw(source, outcome)


def _rates() -> list[float] | None:
    if _LRS.value is None:
        return None
    try:
        found = [float(text) for text in _LRS.value]
    except ValueError:
        found = []
    if not found or not all(0 < rate < float("inf") for rate in found):
        raise errors.UserError(
            f"--lrs={','.join(_LRS.value)}: need numbers above 0, such as "
            "--lrs=0.01,0.03"
        )
    return found


def _candidates(target, rates) -> dict[str, config.Config]:
    """The protocol's runs with what the flags change; refuses what cannot be built."""
    from vit_tf.models import build

    found = fine_tuning.candidates(
        _PROTOCOL.value,
        _model(),
        target,
        start_from=_START_FROM.value,
        image_size=_IMAGE_SIZE.value,
    )
    if rates is not None:
        found = fine_tuning.with_rates(found, rates)
    for cfg in found.values():
        if _STEPS.value is not None:
            cfg.train.length, cfg.train.unit = _STEPS.value, config.Unit.STEPS
            cfg.optim.warmup_steps = min(cfg.optim.warmup_steps, _STEPS.value // 5)
        fine_tuning.check_changes(command.overridden(cfg))
        if config.Measure.ACCURACY not in cfg.evals.measures:  # it is chosen by it
            cfg.evals.measures = (config.Measure.ACCURACY, *cfg.evals.measures)
        build.outline(cfg.model, num_classes=2, image_size=cfg.data.image_size)
    return found


def _model() -> config.Model:
    from vit_tf.runs import loading

    if _START_FROM.value is None:
        return config.Model(variant=_VARIANT.value)
    try:
        return loading.model_of(_START_FROM.value, variant=_VARIANT.value)
    except errors.UserError as refusal:
        raise errors.UserError(f"--start_from={refusal}") from None


def _print_plan(target, candidates, source) -> None:
    """How much work it is, before it begins."""
    first = next(iter(candidates.values()))
    train, choose = target.development
    runs = (len(candidates) if len(candidates) > 1 else 0) + _SEEDS.value
    images = sum(
        timing.num_steps(
            cfg.train, batch_size=cfg.data.batch_size, num_examples=target.examples
        )
        * cfg.data.batch_size
        for cfg in candidates.values()
    )
    each = images / len(candidates)
    print(
        f"{source.name} {source.version}: {target.examples:,} training images, "
        f"{source.num_classes} classes; {first.model.variant} at "
        f"{first.data.image_size} pixels"
    )
    if len(candidates) > 1:
        print(
            f"try {', '.join(candidates)}: train on {train}, choose by "
            f"{choose} ({source.num_examples(choose):,})"
        )
    print(
        f"then {_SEEDS.value} x {target.final[0]}, report {target.final[1]} "
        f"({source.num_examples(target.final[1]):,}); {runs} runs of about "
        f"{each:,.0f} images each"
    )


def _print_outcome(target, outcome) -> None:
    for name, value in outcome.tried.items():
        told = "diverged" if value is None else f"{100 * value:.2f} %"
        mark = " (chosen)" if name == outcome.chosen else ""
        print(f"  {name}: {told} on {target.development[1]}{mark}")
    spread = "" if outcome.std is None else f" +- {100 * outcome.std:.2f}"
    each = ", ".join(f"{100 * value:.2f}" for value in outcome.accuracies)
    print(
        f"{target.name} {target.final[1]}: {100 * outcome.mean:.2f}{spread} % of "
        f"{outcome.count:,} images, mean over {len(outcome.accuracies)} seeds ({each})"
    )


def _draw(source, outcome) -> None:
    """The first final run's confusions and worst mistakes, as pictures."""
    from vit_tf.inspection import run_plots
    from vit_tf.runs import stored_weights
    from vit_tf.runtime import devices
    from vit_tf.studies import transfer

    folder = outcome.folders[0]
    cfg, _ = stored_weights.read_run(folder)
    found = transfer.predictions(
        folder, source, devices.start(cfg.train, **device_flags.chosen())
    )
    names, workdir = source.class_names, pathlib.Path(_WORKDIR.value)
    matrix = transfer.confusion(found, source.num_classes)
    title = f"{source.name}, {cfg.evals.splits[0]}"
    run_plots.confusion(matrix, names, workdir / "confusion.png", title=title)
    print(workdir / "confusion.png")
    places = transfer.worst_mistakes(found, _MISTAKES.value)
    if len(places):
        shown = transfer.pictures(source, cfg.data.view, cfg.evals.splits[0], places)
        captions = [
            f"{names[found.label[i]]}\nas {names[found.predicted[i]]} "
            f"{100 * found.confidence[i]:.0f} %"
            for i in places
        ]
        path = workdir / "mistakes.png"
        run_plots.contact_sheet(
            shown, captions, path, title=f"{title}: the {len(places)} worst mistakes"
        )
        print(path)


if __name__ == "__main__":
    command.run(main, overridable=True)
