"""The demo's page, one report.html: what was done, how good it is, where to go next.

Pictures are in the page, their words are the page's own: so they follow the reader's
light or dark mode and stay legible on a phone.
"""

import base64
import dataclasses
import io
import json
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe
import matplotlib
import numpy as np
from PIL import Image

from tools.reporting import demo_findings, plot_svg
from vit_tf.data import (
    catalog,
    evaluation_stream,
)
from vit_tf.inspection import measures, plots
from vit_tf.inspection.pages import templates
from vit_tf.runs import loading, run_directory
from vit_tf.runtime import timing

RUNS = demo_findings.RUNS
_METHODS = {"finetune": "the fine-tuned ViT", "scratch": "the ViT from scratch"}
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_MISTAKES = 24  # pictures of them at most
_LINE = 55  # letters of a line of a command
_SMOOTH = 5  # rows of metrics.jsonl in the running mean of the loss


def write(workdir: pathlib.Path, *, data_dir: str | None) -> pathlib.Path:
    """Reads the three finished runs below `workdir` and writes the page.

    Returns:
        The path of report.html; figures/positions.png lies beside it.
    """
    models = {name: loading.open_model(str(workdir / name)) for name in RUNS}
    _draw_positions(models, workdir / "figures" / "positions.png")
    page = templates.render(
        _TEMPLATES,
        "demo.html",
        title="vit_tf: a Vision Transformer from pixels to transfer",
        plot_style=markupsafe.Markup(plot_svg.PAGE_STYLE),
        percent=demo_findings.percent,
        clock=timing.format_seconds,
        runs=RUNS,
        commands=_commands(workdir, data_dir),
        **_numbers(workdir, models["finetune"], data_dir),
        **_pictures(models, data_dir),
    )
    path = workdir / "report.html"
    path.write_text(page, "utf-8")
    return path


def _numbers(
    workdir: pathlib.Path, tuned: loading.LoadedModel, data_dir: str | None
) -> dict[str, Any]:
    """Collects what the template shows in numbers, sentences and curves."""
    results = {
        name: json.loads((workdir / name / "result.json").read_text()) for name in RUNS
    }
    rows = {name: run_directory.read_rows(str(workdir / name)) for name in RUNS}
    digits = catalog.open_source(tuned.data.name, data_dir=data_dir)
    scores = {name: demo_findings.score(results[name]) for name in _METHODS}
    scores |= demo_findings.baselines(digits, tuned.data.split)
    return {
        "results": results,
        "shapes": demo_findings.score(results["pretrain"]),
        "scores": scores,
        "verdict": demo_findings.verdict(results),
        "head_start": demo_findings.head_start(rows),
        "best": demo_findings.best(
            {_METHODS.get(name, name): score for name, score in scores.items()}
        ),
        "recorded": demo_findings.recorded(results["finetune"]["steps"]),
        "accuracy": plot_svg.draw(_accuracy_panel(rows, scores), styled=False),
        "losses": [plot_svg.draw(p, styled=False) for p in _loss_panels(rows)],
    }


def _pictures(
    models: Mapping[str, loading.LoadedModel], data_dir: str | None
) -> dict[str, Any]:
    """Draws what the template shows of the pre-trained and the fine-tuned model."""
    looked = {name: models[name] for name in ("pretrain", "finetune")}
    answers = {name: _answers(model, data_dir) for name, model in looked.items()}
    return {
        "grids": {name: model.network.grid for name, model in looked.items()},
        "mistakes": _mistakes(answers["finetune"]),
        "attention": {
            name: _attention(model.network, answers[name])
            for name, model in looked.items()
        },
        "reader": measures.rollout_reader(models["finetune"].network),
        "positions": [
            (
                f"{RUNS[name]}: {model.network.grid} × {model.network.grid} patches",
                _tiles(model.network),
            )
            for name, model in looked.items()
        ],
    }


def _commands(workdir: pathlib.Path, data_dir: str | None) -> dict[str, str]:
    """Lists what to do next with the runs of this demo, as lines for a shell."""
    data = [f"--data_dir={data_dir}"] if data_dir else []
    tuned = f"--checkpoint={workdir / 'finetune'}"

    def line(tool: str, *flags: str) -> str:
        lines = [f"python -m tools.{tool}"]
        for flag in map(shlex.quote, flags):
            if len(lines[-1]) + len(flag) < _LINE:
                lines[-1] += f" {flag}"
            else:
                lines.append(f"    {flag}")
        return " \\\n".join(lines)

    return {
        "prepare": line("prepare_data", "--folder=photos", "--name=photos", *data),
        "transfer": line(
            "transfer",
            f"--start_from={workdir / 'pretrain'}",
            "--dataset=photos",
            *data,
            f"--workdir={workdir / 'photos'}",
            "--image_size=64",
            "--lrs=0.03",
            "--seeds=1",
            "--steps=400",
            "--config.data.batch_size=32",
        ),
        "explore": line(
            "explore", tuned, "--images=digits", *data, f"--to={workdir / 'explorer'}"
        ),
        "export": line("export", tuned, f"--to={workdir / 'exports'}", "--name=digits"),
    }


def _accuracy_panel(
    rows: Mapping[str, Any], scores: Mapping[str, demo_findings.Score]
) -> plot_svg.Panel:
    """Draws test accuracy over the steps on digits, and other methods as levels."""
    return plot_svg.Panel(
        title="Held-out digits read correctly",
        x="training step on digits",
        y="accuracy [%]",
        lines={
            words: [
                plot_svg.Mark(
                    step, 100 * value, name=f"{words}, step {step}: {100 * value:.1f} %"
                )
                for step, value in demo_findings.accuracies(rows[name])
            ]
            for name, words in (
                ("finetune", "fine-tuned"),
                ("scratch", "from scratch"),
            )
        },
        levels={
            name: 100 * score.accuracy
            for name, score in scores.items()
            if name not in RUNS
        },
    )


def _loss_panels(rows: Mapping[str, Any]) -> list[plot_svg.Panel]:
    """Draws the training loss of each task; the tasks differ, and so stand apart."""
    tasks = {
        "Pre-training on shapes": {"pre-training": rows["pretrain"]},
        "Digits": {"fine-tuned": rows["finetune"], "from scratch": rows["scratch"]},
    }
    return [
        plot_svg.Panel(
            title=title,
            x="training step",
            y="training loss [nats]",
            lines={name: _smoothed(of) for name, of in lines.items()},
            marked=False,
        )
        for title, lines in tasks.items()
    ]


def _smoothed(rows: Sequence[Mapping[str, Any]]) -> list[plot_svg.Mark]:
    """Computes the running mean of the logged loss, at the last step of each window."""
    points = np.array(
        [(row["step"], row["loss"]) for row in rows if "loss" in row], float
    )
    width = _SMOOTH if len(points) >= 2 * _SMOOTH else 1
    mean = np.convolve(points[:, 1], np.ones(width) / width, mode="valid")
    steps = points[width - 1 :, 0]
    return [plot_svg.Mark(float(x), float(y)) for x, y in zip(steps, mean)]


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What a model says of every test image.

    Attributes:
        images: (n, size, size, 3) in [0, 1], as the model sees them.
        labels: (n,) what they are.
        classes: (n,) what the model says.
        sure: (n,) the probability that it gives to that.
        names: of the classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    sure: np.ndarray
    names: Sequence[str]

    def said(self, index: int) -> dict[str, str]:
        says, truth = (self.names[of[index]] for of in (self.classes, self.labels))
        return {"says": says, "is": truth, "picture": _picture(self.images[index])}


def _answers(opened: loading.LoadedModel, data_dir: str | None) -> _Answers:
    source = catalog.open_source(opened.data.name, data_dir=data_dir)
    answers = []
    for batch in evaluation_stream.stream(source, opened.view, "test", batch_size=200):
        logits = np.asarray(opened.network(batch["image"], training=False), np.float64)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = shifted / shifted.sum(axis=-1, keepdims=True)
        parts = (batch["image"].numpy(), batch["label"].numpy(), shares)
        answers.append([part[batch["mask"].numpy()] for part in parts])
    images, labels, shares = map(np.concatenate, zip(*answers))
    names = [name.replace("_", " ") for name in opened.labels]
    return _Answers(
        (images + 1) / 2, labels, shares.argmax(axis=-1), shares.max(axis=-1), names
    )


def _mistakes(answers: _Answers) -> dict[str, Any]:
    """Draws the test images that the model gets wrong, those it is surest of first."""
    wrong = np.flatnonzero(answers.classes != answers.labels)
    wrong = wrong[np.argsort(-answers.sure[wrong], kind="stable")]
    return {
        "number": len(wrong),
        "shown": [
            answers.said(i) | {"sure": f"{100 * answers.sure[i]:.0f} %"}
            for i in wrong[:_MISTAKES]
        ],
    }


def _attention(network, answers: _Answers) -> list[dict[str, Any]]:
    """Draws the first test image of each class, and the
    attention rollout as heat on it.
    """
    _, chosen = np.unique(answers.labels, return_index=True)
    images = answers.images[chosen]
    attention = measures.attention_weights(network, 2 * images - 1)
    maps = measures.rollout_map(measures.attention_rollout(attention))
    stride = network.token_stride
    heats = [plots.heat(*pair, patch_size=stride) for pair in zip(images, maps)]
    return [answers.said(i) | {"heat": _picture(h)} for i, h in zip(chosen, heats)]


def _draw_positions(
    models: Mapping[str, loading.LoadedModel], path: pathlib.Path
) -> None:
    """Draws Figure 7 of the two runs as a file, for where no page can be."""
    drawn = plots.position_similarity(
        {
            f"{RUNS[name]}, {models[name].image_size} px": _similarity(
                models[name].network
            )
            for name in ("pretrain", "finetune")
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plots.encode(drawn, "png"))


def _similarity(network) -> np.ndarray:
    return measures.position_similarity(measures.position_table(network))


def _tiles(network) -> str:
    """Draws the similarity of positions with a pixel a patch, clear between tiles."""
    matrix = _similarity(network)
    cells = plots.tiles(matrix, math.isqrt(len(matrix)))
    colours = matplotlib.colormaps["viridis"]((cells + 1) / 2)
    colours[np.isnan(cells)] = 0
    return _picture(colours)


def _picture(pixels: np.ndarray) -> str:
    """Encodes an image (height, width, 3 or 4) in [0, 1] as the address of a PNG."""
    held = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(
        held, "png"
    )
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
