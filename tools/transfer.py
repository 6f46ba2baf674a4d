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

from tools import command, next_steps
from tools.flags import model_flags, number_flags, path_flags, study_flags
from vit_tf import config, errors
from vit_tf.recipes import fine_tuning
from vit_tf.runtime import timing

_START_FROM = model_flags.define_start_from(
    "A finished run's folder or a released .npz. None: from scratch, with --variant."
)
_VARIANT = model_flags.define_variant(
    "The model, such as ViT-B/16, where --start_from does not tell it."
)
_DATASET = flags.DEFINE_string(
    "dataset", None, "A prepared data set, or folder of images.", required=True
)
_WORKDIR = path_flags.define_path(
    "workdir", None, "Where all runs and the summary go.", required=True
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "paper",
    [str(protocol) for protocol in fine_tuning.Protocol],
    "paper: Table 4. table2: ImageNet as in Table 2. hyperrule: BiT's, with nothing to "
    "choose. augreg: the grid of 'How to train your ViT?'.",
)
_LRS = number_flags.define_floats("lrs", None, "Learning rates to try instead.")
_STEPS = number_flags.define_integer(
    "steps", None, "Length of every run instead; warm-up is at most a fifth of it."
)
_IMAGE_SIZE = model_flags.define_image_size("Pixels instead.")
_SEEDS = number_flags.define_integer("seeds", 3, "Final runs.", upper=1_000)
_MISTAKES = number_flags.define_integer(
    "mistakes", 24, "Pictures of them.", lower=0, upper=1_000
)
_STUDY = study_flags.StudyFlags()


def main() -> None:
    if _START_FROM.value is None and _VARIANT.value is None:
        raise errors.UserError(
            "--start_from is missing: name a finished run or a released .npz, or give "
            "--variant=ViT-B/16 to train from scratch"
        )
    path_flags.check_folder(_WORKDIR)
    command.load_tensorflow()
    from vit_tf.costs import memory
    from vit_tf.data import catalog
    from vit_tf.runtime import devices
    from vit_tf.studies import transfer

    # The data would start TensorFlow otherwise.
    machine = devices.start(config.Train(), **_STUDY.devices())
    source = catalog.open_source(_DATASET.value, _STUDY.data_dir)
    target = transfer.describe(source)
    candidates = _candidates(target)
    transfer.check(source, target, candidates)
    _print_plan(target, candidates, source)
    cut = memory.fit_batches(
        candidates,
        num_classes=source.num_classes,
        memory=machine.memory,
        replicas=machine.local_replicas,
    )
    if cut is not None:
        print(cut)
    outcome = transfer.run(
        target,
        candidates,
        _WORKDIR.value,
        seeds=_SEEDS.value,
        data_dir=_STUDY.data_dir,
        wait=_STUDY.wait,
        **_STUDY.devices(),
    )
    if outcome is None:
        print("not finished: the same command resumes it")
        command.stop()
    _print_outcome(target, candidates, outcome)
    if not source.multi_label:
        _draw(source, outcome)
    print(f"The first of {len(outcome.folders)} final runs: {outcome.folders[0]}")
    next_steps.show(
        *next_steps.after_training(outcome.folders[0], _DATASET.value, _STUDY.data_dir)
    )


def _candidates(target) -> dict[str, config.Config]:
    """Makes the protocol's runs with what the flags change;
    refuses what cannot be built.
    """
    from vit_tf.models import build

    model, trained_size = _model()
    runs = fine_tuning.candidates(
        _PROTOCOL.value,
        model,
        target,
        start_from=_START_FROM.value,
        image_size=_IMAGE_SIZE.value,
        trained_size=trained_size,
    )
    if _LRS.value is not None:
        runs = fine_tuning.with_rates(runs, _LRS.value)
    for cfg in runs.values():
        if _STEPS.value is not None:
            cfg.train.length, cfg.train.unit = _STEPS.value, config.Unit.STEPS
            cfg.optim.warmup_steps = min(cfg.optim.warmup_steps, _STEPS.value // 5)
        fine_tuning.check_changes(command.overridden(cfg))
        if config.Measure.ACCURACY not in cfg.evals.measures:  # it is chosen by it
            cfg.evals.measures = (config.Measure.ACCURACY, *cfg.evals.measures)
        build.outline(cfg.model, num_classes=2, image_size=cfg.data.image_size)
    return runs


def _model() -> tuple[config.Model, int | None]:
    """Returns what is fine-tuned, and the pixels that its start was trained at."""
    if _START_FROM.value is None:
        return config.Model(variant=_VARIANT.value), None
    return model_flags.model_of(_START_FROM.value, _VARIANT.value)


def _print_plan(target, candidates, source) -> None:
    """Prints how much work it is, before it begins."""
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


def _print_outcome(target, candidates, outcome) -> None:
    """Prints the candidates, how sure the choice is, and the final accuracy."""
    for name, value in outcome.tried.items():
        text = "diverged" if value is None else _accuracy(value, outcome.held_out)
        mark = " (chosen)" if name == outcome.chosen else ""
        print(f"  {name}: {text} on {target.development[1]}{mark}")
    if outcome.tried:
        print(
            f"  {outcome.held_out:,} images decided; in brackets the 95 % interval of "
            "each accuracy (Wilson): rates whose intervals overlap may be as good"
        )
    edge = fine_tuning.edge_of_grid(candidates, outcome.chosen)
    if edge is not None:
        rate = candidates[outcome.chosen].optim.lr
        further = rate / 3 if edge == "lowest" else rate * 3
        print(
            f"  {outcome.chosen} has the {edge} rate that was tried, so that a better "
            f"one may lie beyond: try --lrs={further:.2g} too, in another --workdir"
        )
    spread = "" if outcome.std is None else f" +- {100 * outcome.std:.2f}"
    each = ", ".join(f"{100 * value:.2f}" for value in outcome.accuracies)
    print(
        f"{target.name} {target.final[1]}: {100 * outcome.mean:.2f}{spread} % of "
        f"{outcome.count:,} images, mean over {len(outcome.accuracies)} seeds ({each})"
    )


def _accuracy(value: float, count: int) -> str:
    """Returns '93.33 % [78.7, 98.2]', with the interval of a share of `count`."""
    from vit_tf.inspection import run_plots

    low, high = run_plots.wilson_interval(value, count)
    return f"{100 * value:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _draw(source, outcome) -> None:
    """Draws the first final run's confusions and worst mistakes."""
    from vit_tf.inspection import plot_text, run_plots
    from vit_tf.runs import stored_weights
    from vit_tf.runtime import devices
    from vit_tf.studies import transfer

    folder = outcome.folders[0]
    cfg, _ = stored_weights.read_run(folder)
    predictions = transfer.predictions(
        folder, source, devices.start(cfg.train, **_STUDY.devices())
    )
    names, workdir = source.class_names, pathlib.Path(_WORKDIR.value)
    matrix = transfer.confusion(predictions, source.num_classes)
    title = f"{source.name}, {cfg.evals.splits[0]}, final run of seed {cfg.train.seed}"
    run_plots.confusion(matrix, names, workdir / "confusion.png", title=title)
    print(workdir / "confusion.png")
    places = transfer.worst_mistakes(predictions, _MISTAKES.value)
    if len(places):
        shown = transfer.pictures(source, cfg.data.view, cfg.evals.splits[0], places)
        captions = [
            f"{plot_text.clean(names[predictions.label[i]])}\nas "
            f"{plot_text.clean(names[predictions.predicted[i]])} "
            f"{100 * predictions.confidence[i]:.0f} %"
            for i in places
        ]
        path = workdir / "mistakes.png"
        number = (
            f"the {len(places)} worst mistakes" if len(places) > 1 else "the mistake"
        )
        order = "least likely true class first" if len(places) > 1 else ""
        run_plots.contact_sheet(
            shown,
            captions,
            path,
            title=f"{title}: {', '.join(filter(None, (number, order)))}",
        )
        print(path)


if __name__ == "__main__":
    command.run(main, overridable=True)
