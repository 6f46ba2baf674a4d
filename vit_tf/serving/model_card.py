"""What a user of an exported model has to know, as facts and as a page of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_tf import identity
from vit_tf.runs import loading, run_directory
from vit_tf.serving import parity_check, preprocessing, serving_signatures

UNSTATED = "not stated: ask whoever trained the model and owns the data"


def facts(
    *,
    checkpoint: str,
    name: str,
    version: int | str,
    opened: loading.LoadedModel,
    options: serving_signatures.Options,
    result: Mapping[str, Any] | None,
    class_names: Sequence[str],
    license: str | None,
    made_by: identity.Identity,
    differences: Sequence[parity_check.Difference],
    signatures: Sequence[str],
    weights: str | None,
) -> dict[str, Any]:
    """Collects everything about an export, ready for JSON; unknown things are None.

    Args:
        signatures: of a SavedModel; ('images',) of a file for another runtime.
        weights: where they are, of a SavedModel.
        others: see `export.Request` and `export.Prepared`.
    """
    how = run_directory.circumstances("")
    run = None
    if result is not None:
        run = {key: result.get(key) for key in ("dataset", "steps", "examples_seen")}
        run |= {
            "commit": result.get("commit"),
            "fingerprint": result.get("fingerprint"),
            "config": result.get("config"),
            "metrics": result.get("metrics", []),
        }
    return {
        "name": name,
        "version": version,
        "checkpoint": checkpoint,
        "model": opened.model.variant,
        "parameters": opened.network.count_params(),
        "image_size": opened.image_size,
        "num_classes": opened.num_classes,
        "class_names": list(class_names),
        "license": license,
        "identity": made_by.to_json(),
        "preprocessing": preprocessing.recipe(options.view(opened)).facts(),
        "signatures": list(signatures),
        "options": {
            "precision": str(options.precision),
            "eval_crop": str(options.eval_crop),
            "scores": str(options.scores),
            "top_k": min(options.top_k, opened.num_classes),
            "max_pixels": options.max_pixels,
            "max_batch_size": options.max_batch_size,
            "weights": weights,
        },
        "differences": [
            {"name": d.name, "size": d.size, "limit": d.limit} for d in differences
        ],
        "run": run,
        "exported_with": {"commit": how["commit"], "versions": how["versions"]},
    }


def text(facts_of: Mapping[str, Any]) -> str:
    """Writes the facts as Markdown."""
    run = facts_of["run"]
    takes, gives = _takes(facts_of), _gives(facts_of)
    made = (
        f"{facts_of['model']} with {facts_of['parameters']:,} parameters, made from "
        f"`{facts_of['checkpoint']}`. License: {facts_of['license'] or UNSTATED}."
    )
    versions = ", ".join(
        f"{k} {v}" for k, v in facts_of["exported_with"]["versions"].items()
    )
    parts = [
        f"# {facts_of['name']}, version {facts_of['version']}",
        made,
        "## What it takes and gives",
        takes,
        gives,
        *_preparing(facts_of),
        "## How it was trained",
        *(
            _of_run(run)
            if run
            else ["Unknown: made from an .npz file, which does not say."]
        ),
        "## Agreement with the checkpoint",
        "\n".join(
            f"- {d['name']}: differs by {d['size']:.2g}, allowed {d['limit']:g}"
            for d in facts_of["differences"]
        ),
        "## Made with",
        f"{versions}; vit_tf at commit {facts_of['exported_with']['commit']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _takes(facts_of: Mapping[str, Any]) -> str:
    options, size = facts_of["options"], facts_of["image_size"]
    floats = f"float32 images (n, {size}, {size}, 3) in [-1, 1]"
    view = f"view `{options['eval_crop']}` of evaluation"
    if "images" in facts_of["signatures"]:
        return f"`images`: {floats}, which the caller decodes and resizes, {view}."
    also = f", or {floats}" if "serving_tensor" in facts_of["signatures"] else ""
    return (
        "Image files (JPEG, PNG, still WebP, GIF's first frame, BMP) of at most "
        f"{options['max_pixels']:,} pixels{also}; {options['max_batch_size']} in a "
        f"request. Files are decoded without their EXIF rotation, {view}. Signatures: "
        f"{', '.join(facts_of['signatures'])}."
    )


def _preparing(facts_of: Mapping[str, Any]) -> list[str]:
    """Returns how a caller makes images of files, where a signature takes them."""
    if not {"images", "serving_tensor"} & set(facts_of["signatures"]):
        return []
    recipe = preprocessing.Recipe.from_facts(facts_of["preprocessing"])
    return ["## How to prepare an image", recipe.text()]


def _gives(facts_of: Mapping[str, Any]) -> str:
    options = facts_of["options"]
    if not facts_of["num_classes"]:
        return f"Features, no classes; computed in {options['precision']}."
    where = options["weights"]
    return (
        f"{facts_of['num_classes']} classes; probabilities by {options['scores']}; computed "
        f"in {options['precision']}" + (f", weights as {where}." if where else ".")
    )


def _of_run(run: Mapping[str, Any]) -> list[str]:
    settings = run["config"]
    optim, objective = settings["optim"], settings["objective"]
    start = settings.get("start_from")
    source = f"from {start}" if start else "from scratch"
    how = (
        f"On {run['dataset']}, {run['steps']:,} steps, {run['examples_seen']:,} images "
        f"seen, batch {settings['data']['batch_size']}, {source}: {optim['rule']}, "
        f"learning rate {optim['lr']:g} ({optim['schedule']}), weight decay "
        f"{optim['weight_decay']:g}, {objective['loss']} loss, dropout "
        f"{settings['model']['dropout']:g}. Commit {run['commit']}, config "
        f"{run['fingerprint']}."
    )
    rows = "\n".join(
        f"| {m['split']} | {m['name']} | {m['value']:.4f} | {m['count']:,} |"
        for m in run["metrics"]
    )
    return [how, f"| split | measure | value | images |\n|---|---|---|---|\n{rows}"]
