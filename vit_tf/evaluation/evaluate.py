"""Evaluates a stored model on data sets: measures, few shots, other image sizes.

Everything that can be refused is refused before the first image is read.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_tf import config, config_values, errors, identity
from vit_tf.costs import memory
from vit_tf.data import catalog, class_names, data_source
from vit_tf.evaluation import evaluators, fewshot
from vit_tf.models import build, npz_weights
from vit_tf.objectives import classification
from vit_tf.runs import loading, run_directory, stored_weights
from vit_tf.runtime import devices, progress, timing

FEW_SHOT, RESOLUTION = "fewshot", "resolution"
MEASURES = classification.Classification.measures
_FEW = "--evaluators=fewshot needs no head"
EVALUATORS = (*map(str, MEASURES), FEW_SHOT, RESOLUTION)
USUAL = ("accuracy", "top5_accuracy", "nll", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure.

    Attributes:
        checkpoint: a finished run's folder or an .npz of any layout.
        names: data sets, as `catalog.open_source` knows them.
        evaluators: some of EVALUATORS.
        split: of every set; None: the one that its catalogue entry reports, else test
            or validation.
        variant: for an .npz whose arrays fit several models.
        image_size: pixels; None: as trained.
        resolutions: pixels at which the model is measured again.
        eval_crop: None: the run's own, of an .npz the whole image resized.
        batch_size: images at a time; changes no number.
        few_shot: shots, seeds and l2.
        data_dir: where prepared data sets lie.
    """

    checkpoint: str
    names: tuple[str, ...]
    evaluators: tuple[str, ...] = USUAL
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
        """Returns what is computed from logits.

        Other image sizes are measured by the accuracy where nothing else is named.
        """
        named = [m for m in MEASURES if m.value in self.evaluators]
        return named or ([config.Measure.ACCURACY] if self.resolutions else [])


@dataclasses.dataclass(frozen=True)
class _Model:
    """Opens the model of a request, at any image size."""

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
    """Measures a stored model; the result can be written as JSON.

    Returns:
        The model and where it ran; 'metrics', a list of dataset, split, image_size,
        name, value and count; 'classes_of', by set, the accuracy of each class if that
        was requested; 'few_shot', with the value of each draw.

    Raises:
        errors.UserError: an evaluator that is not there; a set, split or model that is
            not there; other classes than the set's; a size that the model cannot take.
    """
    _check_request(request)
    sources = [catalog.open_source(name, request.data_dir) for name in request.names]
    sets = [(s, _split(s, request)) for s in sources if request.measures]
    model = _Model(request, machine, _run_of(request))
    opened = model.at(request.image_size)
    notes = [_not_measured(s, split) for s, split in sets]
    sets, matched = _check_model(request, opened, sets)
    notes += matched
    crop = request.eval_crop or opened.eval_crop
    shots = (
        _few_shot(request, opened, machine) if FEW_SHOT in request.evaluators else None
    )
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
        "identity": identify(request).to_json(),
        "model": dataclasses.asdict(opened.model),
        "num_classes": opened.num_classes,
        "config": dataclasses.asdict(model.run) if model.run else None,
        "fingerprint": config_values.fingerprint(model.run) if model.run else None,
        "loaded": list(opened.lines),
        "image_size": opened.image_size,
        "eval_crop": crop.value,
        "precision": opened.network.dtype_policy.name,
        "batch_size": request.batch_size,
        "datasets": {source.name: source.version for source in sources},
        "content": {source.name: source.content_digest for source in sources},
        "notes": [note for note in notes if note],
        **run_directory.circumstances(machine.device),
        "metrics": metrics,
        "classes_of": classes_of,
        "few_shot": [
            dataclasses.asdict(score) | {"mean": score.mean, "std": score.std}
            for score in scores
        ],
    }


def identify(request: Request) -> identity.Identity:
    """Returns what the numbers of a report follow from, without building the model.

    Raises:
        errors.UserError: a set, split or model that is not there.
    """
    run, path = _run_of(request), request.checkpoint
    sources = [catalog.open_source(name, request.data_dir) for name in request.names]
    size = request.image_size
    if size is None:
        size = loading.trained_size(path, variant=request.variant)
    own_crop = run.data.eval_crop if run else config.EvalCrop.RESIZE
    settings = {
        "evaluators": sorted({*request.evaluators}),
        "splits": [_split(s, request) for s in sources if request.measures],
        "image_size": size,
        "resolutions": list(request.resolutions),
        "eval_crop": request.eval_crop or own_crop,
        "precision": run and run.train.precision,
    }
    if FEW_SHOT in request.evaluators:
        settings |= config_values.fields(request.few_shot, "few_shot.")
    return identity.Identity.of(
        weights=stored_weights.digest(path),
        made_from=path,
        settings=settings,
        data={source.name: _data_facts(source) for source in sources},
    )


def _data_facts(source: data_source.Source) -> dict[str, identity.Json]:
    """Returns what identifies a prepared set."""
    splits = source.builder.info.splits.items()
    return {
        "version": source.version,
        "splits": {name: info.num_examples for name, info in splits},
        "digest": getattr(source, "content_digest", None),
    }


def _run_of(request: Request) -> config.Config | None:
    """Returns the config of the run that is evaluated; None for an .npz."""
    path = request.checkpoint
    if not stored_weights.locate(path).is_run:
        return None
    if request.variant is not None:
        raise errors.UserError(
            f"--variant: {path} is a run, whose config.json names its variant; leave it out"
        )
    return stored_weights.read_run(path)[0]


def _check_request(request: Request) -> None:
    for name in request.evaluators:
        if name not in EVALUATORS:
            raise errors.UserError(
                f"--evaluators={name}: no such evaluator"
                f"{errors.nearest(name, EVALUATORS)}"
            )
    if bool(request.resolutions) != (RESOLUTION in request.evaluators):
        raise errors.UserError(
            "--resolutions=SIZES and --evaluators=resolution go together: name both"
        )
    if not request.evaluators:
        raise errors.UserError(
            f"--evaluators is empty: name some of {', '.join(EVALUATORS)}"
        )


def _split(source: data_source.Source, request: Request) -> str:
    """Returns the split of a set to measure."""
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


def _check_model(
    request: Request,
    opened: loading.LoadedModel,
    sets: list[tuple[data_source.Source, str]],
) -> tuple[list[tuple[data_source.Source, str]], list[str]]:
    """Returns the sets with the model's labels, and what to know of them."""
    opened.require_pooled("evaluation")
    if sets and not opened.num_classes:
        raise errors.UserError(f"{request.checkpoint}: has no last layer; {_FEW}")
    fitting, lines = [], []
    for source, split in sets:
        try:
            matched = class_names.match(source, opened.class_names, opened.num_classes)
        except errors.UserError as refusal:
            raise errors.UserError(
                f"{request.checkpoint}: {refusal}, or {_FEW}"
            ) from None
        _check_measures(request, opened, matched.source)
        fitting.append((matched.source, split))
        lines.append(matched.line)
    for size in request.resolutions:
        _check_size(opened, size)
    return fitting, lines


def _not_measured(source: data_source.Source, split: str) -> str:
    """Says which images of a set of one's own the split leaves out."""
    splits = source.builder.info.splits
    others = [f"{n} ({i.num_examples:,})" for n, i in splits.items() if n != split]
    if source.spec.final or not others or split not in splits:
        return ""
    return (
        f"{source.name}: measured is {split} ({splits[split].num_examples:,} images), "
        f"not {', '.join(others)}; --split={'+'.join(splits)} takes all"
    )


def _check_measures(
    request: Request, opened: loading.LoadedModel, source: data_source.Source
) -> None:
    """Refuses measures that the set or the model cannot have."""
    path = request.checkpoint
    if config.Measure.LOSS in request.measures and opened.objective is None:
        raise errors.UserError(
            f"--evaluators=loss: {path} does not say which loss its training minimised; "
            "nll is softmax cross-entropy"
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


def _check_size(opened: loading.LoadedModel, size: int) -> None:
    """Refuses a size that the patches do not divide, or that some weights do not fit."""
    outline = build.outline(
        opened.model, num_classes=opened.num_classes, image_size=size
    )
    for ours, theirs in zip(opened.network.weights, outline.weights):
        if ours.shape != theirs.shape and not ours.path.endswith(npz_weights.RESIZED):
            raise errors.UserError(
                f"--resolutions={size}: {ours.path} fits images of "
                f"{opened.image_size} pixels only; leave --resolutions out"
            )


def _few_shot(
    request: Request, opened: loading.LoadedModel, machine: devices.Runtime
) -> fewshot.FewShot:
    settings = dataclasses.replace(
        request.few_shot, datasets=request.names, image_size=None
    )
    return fewshot.FewShot(
        settings,
        fewshot.open_tasks(settings, request.data_dir),
        model=opened.network,
        model_config=opened.model,
        machine=machine,
    )


def _measure(
    model: _Model,
    opened: loading.LoadedModel,
    sets: list[tuple[data_source.Source, str]],
    crop: config.EvalCrop,
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Computes the measures at every size: rows, and class accuracies by set."""
    request, rows, classes_of = model.request, [], {}
    own = [opened.image_size] if {*request.evaluators} & {*MEASURES} else []
    sizes = dict.fromkeys([*own, *request.resolutions] if request.measures else [])
    for size in sizes:
        now = opened if size == opened.image_size else model.at(size)
        memory.check_evaluation(
            now.network,
            batch_size=request.batch_size,
            precision=config.Precision(now.network.dtype_policy.name),
            memory=model.machine.memory,
        )
        evaluator = evaluators.of(now, model.machine)
        view = config.View(size, crop)
        for source, split in sets:
            title = f"{source.name}/{split} at {size}"
            with _watching(title, source.num_examples(split)) as on_progress:
                predictions = evaluator.predict(
                    source,
                    view,
                    split,
                    batch_size=request.batch_size,
                    on_progress=on_progress,
                )
            for name in request.measures:
                metric = evaluators.measure(predictions, name, split)
                where = {"dataset": source.name, "image_size": size}
                rows.append(where | dataclasses.asdict(metric))
            if config.Measure.CLASS_ACCURACY in request.measures and (
                size == opened.image_size
            ):
                classes_of[source.name] = _classes(predictions, source)
    return rows, classes_of


def _classes(
    predictions: evaluators.Predictions, source: data_source.Source
) -> list[dict[str, Any]]:
    """Returns every class that has examples, with its accuracy."""
    counts = np.bincount(predictions.label, minlength=source.num_classes)
    names = source.class_names
    return [
        {"label": c, "name": names[c], "accuracy": value, "count": int(counts[c])}
        for c, value in evaluators.class_accuracies(predictions).items()
    ]


@contextlib.contextmanager
def _watching(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how far a pass is, its rate, and the time left."""
    clock, before = timing.StepTimer(1, seconds=0.0), 0
    with progress.Progress(name, total=total) as shown:

        def update(done: int) -> None:
            nonlocal before
            clock.tick(done - before)
            before = done
            shown.update(done, rate=clock.rate)

        yield update
