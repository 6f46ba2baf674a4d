"""A stored model on data sets: measures, few shots, and how it bears other sizes.

Everything that can be refused is refused before the first image is read.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_tf import config, errors
from vit_tf.data import catalog, data_source
from vit_tf.evaluation import evaluators, fewshot
from vit_tf.models import build, npz_weights
from vit_tf.objectives import classification
from vit_tf.runs import loading, run_directory, stored_weights
from vit_tf.runtime import devices, progress, timing

FEW_SHOT, RESOLUTION = "fewshot", "resolution"
MEASURES = classification.Classification.measures
EVALUATORS = (*map(str, MEASURES), FEW_SHOT, RESOLUTION)
USUAL = ("accuracy", "top5_accuracy", "nll", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure.

    Attributes:
        checkpoint: a finished run's folder or an .npz of any layout.
        names: data sets, as `datasets.open_source` knows them.
        asked: of EVALUATORS.
        split: of every set; None: what its row reports, else test or validation.
        variant: for an .npz whose arrays do not tell it.
        image_size: pixels; None: as trained.
        resolutions: pixels at which the model is measured again.
        eval_crop: the view; None: the run's own, of an .npz the whole image resized.
        batch_size: any gives the same numbers.
        few_shot: shots, seeds and l2.
        data_dir: where prepared data sets lie.
    """

    checkpoint: str
    names: tuple[str, ...]
    asked: tuple[str, ...] = USUAL
    split: str | None = None
    variant: str | None = None
    image_size: int | None = None
    resolutions: tuple[int, ...] = ()
    eval_crop: config.EvalCrop | None = None
    batch_size: int = 256
    few_shot: config.FewShot = dataclasses.field(default_factory=config.FewShot)
    data_dir: str | None = None

    @property
    def measures(self) -> list[config.Measure]:
        """What is taken of logits; at other sizes too, at least the accuracy."""
        found = [m for m in MEASURES if m.value in self.asked]
        return found or ([config.Measure.ACCURACY] if self.resolutions else [])


@dataclasses.dataclass(frozen=True)
class _Model:
    """The opened model, and how to open it again at another size."""

    request: Request
    machine: devices.Runtime
    run: config.Config | None  # None for an .npz

    def at(self, size: int | None) -> loading.LoadedModel:
        # In the run's own precision, so that its own numbers come out.
        with self.machine.strategy.scope():
            return loading.open_model(
                self.request.checkpoint,
                image_size=size,
                variant=self.request.variant,
                dtype=self.run and str(self.run.train.precision),
            )


def evaluate(request: Request, machine: devices.Runtime) -> dict[str, Any]:
    """Measures a stored model; what it gives can be written as JSON.

    Returns:
        The model and where it ran; 'metrics', a list of dataset, split, image_size,
        name, value and count; 'classes_of', by set, with the accuracy of each class
        if that was asked; 'few_shot', with the value of each draw.

    Raises:
        errors.UserError: an evaluator that is not there; a set, split or model that is
            not there; classes that are not the set's; a size that cannot be.
    """
    _check_request(request)
    sources = [catalog.open_source(name, request.data_dir) for name in request.names]
    sets = [(s, _split(s, request)) for s in sources if request.measures]
    model = _Model(request, machine, _run_of(request))
    opened = model.at(request.image_size)
    _check_model(request, opened, sets)
    crop = request.eval_crop or opened.eval_crop
    shots = _few_shot(request, opened, machine) if FEW_SHOT in request.asked else None
    metrics, classes_of = _measure(model, opened, sets, crop)
    scores = []
    if shots is not None:
        scores = shots.evaluate(batch_size=request.batch_size, watching=_watching)
        for score in scores:
            row = dataclasses.asdict(score.metric) | {"split": score.split}
            size = {"dataset": score.dataset, "image_size": opened.image_size}
            metrics.append(size | row)
    return {
        "checkpoint": request.checkpoint,
        "model": dataclasses.asdict(opened.model),
        "num_classes": opened.num_classes,
        "config": dataclasses.asdict(model.run) if model.run else None,
        "fingerprint": config.fingerprint(model.run) if model.run else None,
        "loaded": list(opened.lines),
        "image_size": opened.image_size,
        "eval_crop": crop.value,
        "precision": opened.network.dtype_policy.name,
        "batch_size": request.batch_size,
        "datasets": {source.name: source.version for source in sources},
        **run_directory.circumstances(machine.device),
        "metrics": metrics,
        "classes_of": classes_of,
        "few_shot": [
            dataclasses.asdict(score) | {"mean": score.mean, "std": score.std}
            for score in scores
        ],
    }


def _run_of(request: Request) -> config.Config | None:
    """The config of the run that is evaluated; None for an .npz."""
    path = request.checkpoint
    if not stored_weights.locate(path).is_run:
        return None
    if request.variant is not None:
        raise errors.UserError(f"--variant: {path} is a run, which says what it is")
    return stored_weights.read_run(path)[0]


def _check_request(request: Request) -> None:
    for name in request.asked:
        if name not in EVALUATORS:
            raise errors.UserError(
                f"--evaluators={name}: no such evaluator"
                f"{errors.nearest(name, EVALUATORS)}"
            )
    if bool(request.resolutions) != (RESOLUTION in request.asked):
        raise errors.UserError(
            "--resolutions=SIZES and --evaluators=resolution go together: name both"
        )
    if not request.asked:
        raise errors.UserError(
            f"--evaluators is empty: name some of {', '.join(EVALUATORS)}"
        )


def _split(source: data_source.Source, request: Request) -> str:
    """The split of a set that is measured."""
    stored, split = source.builder.info.splits, request.split
    if split is None and source.spec.final:
        split = source.spec.final[1]
    if split is None:
        split = next((s for s in ("test", "validation") if s in stored), None)
    if split is None:
        raise errors.UserError(
            f"{source.name}: no split test or validation; name one with --split; there "
            f"are: {data_source.count_splits(source.builder)}"
        )
    source.num_examples(split)  # refuses an unknown one
    return split


def _check_model(request: Request, opened: loading.LoadedModel, sets) -> None:
    if not opened.network.pools:
        raise errors.UserError(
            f"{request.checkpoint}: gives logits for every token, evaluation needs one "
            "vector per image"
        )
    for source, _ in sets:
        _check_fit(request, opened, source)
    for size in request.resolutions:
        _check_size(opened, size)


def _check_fit(
    request: Request, opened: loading.LoadedModel, source: data_source.Source
) -> None:
    """Refuses a set whose labels the model does not tell, and measures it has not."""
    path, few = request.checkpoint, "--evaluators=fewshot needs no head"
    if not opened.num_classes:
        raise errors.UserError(f"{path}: has no last layer; {few}")
    if opened.num_classes != source.num_classes:
        raise errors.UserError(
            f"{path}: tells {opened.num_classes} classes, {source.name} has "
            f"{source.num_classes}; name a set with its classes, or {few}"
        )
    ours, theirs = opened.class_names, source.class_names
    if ours and _are_names(ours) and _are_names(theirs) and ours != theirs:
        label = next(i for i, pair in enumerate(zip(ours, theirs)) if len({*pair}) > 1)
        raise errors.UserError(
            f"{path}: class {label} is {ours[label]!r} there and {theirs[label]!r} in "
            f"{source.name}; name a set with its classes, or {few}"
        )
    if config.Measure.LOSS in request.measures and opened.objective is None:
        raise errors.UserError(
            f"--evaluators=loss: {path} does not say what its training minimised; "
            "nll is the soft-max's"
        )
    if source.multi_label:
        softmax = opened.objective and opened.objective.loss is config.Loss.SOFTMAX
        for name, bad in (
            (config.Measure.CLASS_ACCURACY, True),
            (config.Measure.LOSS, softmax),
        ):
            if bad and name in request.measures:
                raise errors.UserError(
                    f"--evaluators={name}: an image of {source.name} has several "
                    "labels; leave it out"
                )


def _are_names(names: tuple[str, ...]) -> bool:
    """Numbers stand where a data set has no names."""
    return names != tuple(str(number) for number in range(len(names)))


def _check_size(opened: loading.LoadedModel, size: int) -> None:
    """Refuses a size that the patches, or weights of one grid, do not allow."""
    outline = build.outline(
        opened.model, num_classes=opened.num_classes, image_size=size
    )
    for ours, theirs in zip(opened.network.weights, outline.weights):
        if ours.shape != theirs.shape and not ours.path.endswith(npz_weights.RESIZED):
            raise errors.UserError(
                f"--resolutions={size}: {ours.path} is of one size, {opened.image_size}"
            )


def _few_shot(request: Request, opened, machine) -> fewshot.FewShot:
    settings = dataclasses.replace(
        request.few_shot, datasets=request.names, image_size=None
    )
    return fewshot.FewShot(
        settings,
        fewshot.open_tasks(settings, request.data_dir),
        model=opened.network,
        described=opened.model,
        machine=machine,
    )


def _measure(model: _Model, opened, sets, crop):
    """The measures at every size: rows, and the accuracies of classes by set."""
    request, rows, classes_of = model.request, [], {}
    own = [opened.image_size] if {*request.asked} & {*MEASURES} else []
    sizes = dict.fromkeys([*own, *request.resolutions] if request.measures else [])
    for size in sizes:
        now = opened if size == opened.image_size else model.at(size)
        evaluator = evaluators.Classification(
            model=now.network,
            objective=classification.Classification(
                opened.objective or config.Objective(), num_classes=opened.num_classes
            ),
            strategy=model.machine.strategy,
            processes=model.machine.processes,
        )
        view = config.View(size, crop)
        for source, split in sets:
            title = f"{source.name}/{split} at {size}"
            with _watching(title, source.num_examples(split)) as on_progress:
                found = evaluator.predict(
                    source,
                    view,
                    split,
                    batch_size=request.batch_size,
                    on_progress=on_progress,
                )
            for name in request.measures:
                metric = evaluators.measure(found, name, split)
                where = {"dataset": source.name, "image_size": size}
                rows.append(where | dataclasses.asdict(metric))
            if config.Measure.CLASS_ACCURACY in request.measures and (
                size == opened.image_size
            ):
                classes_of[source.name] = _classes(found, source)
    return rows, classes_of


def _classes(found: evaluators.Predictions, source: data_source.Source) -> list[dict]:
    """Every class that has examples, with its accuracy."""
    counts = np.bincount(found.label, minlength=source.num_classes)
    names = source.class_names
    return [
        {"label": c, "name": names[c], "accuracy": value, "count": int(counts[c])}
        for c, value in evaluators.class_accuracies(found).items()
    ]


@contextlib.contextmanager
def _watching(name: str, total: int) -> Iterator:
    """Shows how far a pass is, at what rate, and what is left."""
    clock, before = timing.StepTimer(1, seconds=0.0), 0
    with progress.Progress(name, total=total) as shown:

        def update(done: int) -> None:
            nonlocal before
            clock.tick(done - before)
            before = done
            shown.update(done, rate=clock.rate)

        yield update
