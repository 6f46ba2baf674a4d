"""The quickstart's page: what three runs did, in one report.html with PNGs."""

import html
import json
import pathlib
from typing import Any

import numpy as np

from vit_tf.data import catalog, pipeline
from vit_tf.inspection import measures, plots, run_plots
from vit_tf.runs import loading, run_directory
from vit_tf.runtime import timing

RUNS = {
    "pretrain": "pre-trained on shapes",
    "finetune": "fine-tuned on digits",
    "scratch": "digits from scratch",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; background: #fff } figure { margin: 1rem 0 }
figcaption { font-size: .9rem; color: #666 }
.outcome { border-left: 4px solid #0072B2; padding: .4rem 1rem }
code { background: #8882; padding: 0 .2rem }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } figcaption { color: #aaa } }
"""


def write(workdir: pathlib.Path, *, data_dir: str | None) -> pathlib.Path:
    """Reads the three finished runs below `workdir` and writes the page.

    Returns:
        The path of report.html.
    """
    results = {
        name: json.loads((workdir / name / "result.json").read_text()) for name in RUNS
    }
    rows = {name: run_directory.read_rows(str(workdir / name)) for name in RUNS}
    panels = {
        "pre-training on shapes": {RUNS["pretrain"]: rows["pretrain"]},
        "digits": {RUNS[name]: rows[name] for name in ("finetune", "scratch")},
    }
    pictures = workdir / "figures"
    run_plots.curves(
        panels, pictures / "loss.png", name="loss", label="loss [nats]", smooth=5
    )
    run_plots.curves(
        panels, pictures / "rate.png", name="learning_rate", label="learning rate"
    )
    run_plots.accuracies(
        {RUNS[name]: _accuracy(results[name]) for name in RUNS},
        pictures / "accuracy.png",
        chance=0.1,
    )
    models = {name: loading.open_model(str(workdir / name)) for name in RUNS}
    positions = plots.position_similarity(
        {
            _grid_title(name, models[name]): _similarity(models[name].network)
            for name in ("pretrain", "finetune")
        }
    )
    (pictures / "positions.png").write_bytes(plots.encode(positions, "png"))
    for name in ("pretrain", "finetune"):
        drawn = _attention(RUNS[name], models[name], data_dir)
        (pictures / f"attention_{name}.png").write_bytes(plots.encode(drawn, "png"))
    page = workdir / "report.html"
    page.write_text(_page(results))
    return page


def verdict(results: dict[str, Any]) -> str:
    """One honest sentence on whether pre-training helped.

    The two runs see the same test images, so intervals that overlap are said to
    decide nothing.
    """
    (ours, count), (theirs, _) = (
        _accuracy(results[name]) for name in ("finetune", "scratch")
    )
    gap = f"{100 * abs(ours - theirs):.1f} points"
    steps = results["finetune"]["steps"]
    after = f"after {steps} steps on the same {count} test images, one seed each"
    low, high = run_plots.wilson_interval(ours, count)
    other_low, other_high = run_plots.wilson_interval(theirs, count)
    overlap = low <= other_high and other_low <= high
    doubt = (
        "; the 95 % intervals overlap, so this run alone does not decide it"
        if overlap
        else "; the 95 % intervals do not overlap"
    )
    if ours > theirs:
        return f"Pre-training on shapes helped: {gap} better {after}{doubt}."
    if ours < theirs:
        return f"Pre-training on shapes did not help: {gap} worse {after}{doubt}."
    return f"Pre-training on shapes made no difference: the same accuracy {after}."


def _accuracy(result: dict[str, Any]) -> tuple[float, int]:
    (metric,) = [m for m in result["metrics"] if m["name"] == "accuracy"]
    return metric["value"], metric["count"]


def _grid_title(name: str, opened: loading.LoadedModel) -> str:
    return f"{RUNS[name]}, {opened.image_size} px"


def _similarity(model) -> np.ndarray:
    return measures.position_similarity(measures.position_table(model))


def _attention(title: str, opened: loading.LoadedModel, data_dir, number: int = 8):
    """Rollout of the class token over the first test images of each class, drawn."""
    model, data = opened.network, opened.data
    source = catalog.open_source(data.name, data_dir=data_dir)
    batch = next(
        iter(pipeline.eval_stream(source, opened.view, "test", batch_size=200))
    )
    labels = batch["label"].numpy()
    chosen = [np.flatnonzero(labels == k)[0] for k in np.unique(labels)][:number]
    pixels = batch["image"].numpy()[chosen]
    guesses = np.asarray(model(pixels, training=False)).argmax(-1)
    maps = measures.rollout_map(
        measures.attention_rollout(measures.attention_weights(model, pixels))
    )
    names = opened.class_names
    captions = [
        f"{names[g]}" + ("" if g == labels[i] else f" (is {names[labels[i]]})")
        for g, i in zip(guesses, chosen)
    ]
    return plots.rollout(
        (pixels + 1) / 2,
        np.asarray(maps),
        captions,
        patch_size=model.token_stride,
        title=f"{title}: attention from {measures.rollout_reader(model)} to the input",
    )


def _row(name: str, result: dict[str, Any]) -> str:
    value, count = _accuracy(result)
    low, high = run_plots.wilson_interval(value, count)
    cells = [
        RUNS[name],
        f"{100 * value:.1f} %",
        f"{round(value * count)} of {count}",
        f"{100 * low:.1f} – {100 * high:.1f} %",
        f"{result['config']['data']['image_size']} px",
        f"{result['steps']:,}",
        timing.format_seconds(result["train_seconds"]),
    ]
    return "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


def _figure(name: str, caption: str) -> str:
    caption = html.escape(caption)
    return (
        f'<figure><img src="figures/{name}.png" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _page(results: dict[str, Any]) -> str:
    some = results["finetune"]
    head = "".join(
        f"<th>{h}</th>"
        for h in (
            "run",
            "accuracy",
            "right",
            "95 % interval",
            "image",
            "steps",
            "training time",
        )
    )
    body = "".join(_row(name, results[name]) for name in RUNS)
    versions = ", ".join(f"{k} {v}" for k, v in some["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vit_tf: a Vision Transformer from pixels to transfer</title>
<style>{_STYLE}</style></head><body>
<h1>A Vision Transformer, pre-trained and transferred</h1>
<p>A ViT with {some["parameters"]:,} parameters learned to name drawn shapes, then to
read real handwritten digits at twice the resolution: a new zero-initialised head,
resized position embeddings. The same model learned the digits from scratch for the
same steps.</p>
<p class="outcome">{html.escape(verdict(results))}</p>
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
{_figure("accuracy", "Accuracy on the test splits; lines are 95 % intervals, the dotted line is chance for ten classes.")}
<h2>How they learned</h2>
{_figure("loss", "Training loss of the logged steps (faint) and its running mean over five of them.")}
{_figure("rate", "Learning rate: warm-up, then linear decay (Adam, pre-training) or cosine (SGD, digits; both runs have the same).")}
<h2>What the model knows about places</h2>
{_figure("positions", "Cosine similarity between the position embedding of each patch and all others (the paper's Figure 7, centre). Fine-tuning started from the left ones, resized to the finer grid.")}
<h2>Where it looks</h2>
{_figure("attention_pretrain", "Shapes: attention rollout from the class token (the paper's Figure 6), with the model's answer.")}
{_figure("attention_finetune", "Digits, after fine-tuning.")}
<h2>What ran</h2>
<p>Device: {html.escape(some["device"])}. {html.escape(versions)}. Data:
{html.escape(results["pretrain"]["dataset"])} (drawn by this project),
{html.escape(some["dataset"])} (8 x 8 scans shipped with scikit-learn). One seed; a toy
scale, which says nothing about the paper's accuracies. Each run's folder beside this
page holds config.json, metrics.jsonl, TensorBoard curves, weights.npz and
result.json.</p>
</body></html>
"""
