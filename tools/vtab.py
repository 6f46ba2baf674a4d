"""VTAB-1k of one model: 19 tasks from 1,000 examples each, and their mean.

python -m tools.vtab --start_from=ViT-B_16.npz --workdir=runs/vtab
python -m tools.vtab --start_from=ViT-B_16.npz --workdir=runs/look --linear \
    --tasks=natural,clevr_count --skip_missing

Fine-tuning is the paper's: 2,500 steps, learning rate 0.01, 384 pixels. The same
command goes on where it was; several processes may share one --workdir.
"""

import os
import sys

from absl import flags

from tools import command
from tools.flags import model_flags, number_flags, path_flags, study_flags
from vit_tf import config
from vit_tf.recipes import fine_tuning

_START_FROM = model_flags.define_start_from(required=True)
_VARIANT = model_flags.define_variant(
    "The model, such as ViT-B/16, where --start_from does not tell it."
)
_WORKDIR = path_flags.define_path(
    "workdir", None, "Where all runs and the table go.", required=True
)
_TASKS = flags.DEFINE_list(
    "tasks", ["all"], "Tasks or groups: natural, specialized, structured, svhn, ..."
)
_SKIP_MISSING = flags.DEFINE_bool(
    "skip_missing", False, "Leave out tasks whose data set is not prepared."
)
_SEEDS = number_flags.define_integer(
    "seeds", 1, "Runs of each task; 3 in the paper.", upper=1_000
)
_LINEAR = flags.DEFINE_bool(
    "linear",
    False,
    "A quick look: ridge regression on frozen features; for one process.",
)
_IMAGE_SIZE = model_flags.define_image_size(
    "Pixels; by default 384, with --linear as trained."
)
_BATCH_SIZE = model_flags.define_batch_size(64, "Of --linear.")
_LIST = flags.DEFINE_bool("list", False, "Shows the runs and how far they are.")
_INDEX = number_flags.define_integer(
    "index", None, "Do only this run, by its number.", lower=0
)
_STUDY = study_flags.StudyFlags()


def main() -> None:
    path_flags.check_folder(_WORKDIR)
    command.load_tensorflow()
    from vit_tf.studies import vtab

    tasks = vtab.prepared_tasks(
        vtab.choose_tasks(_TASKS.value),
        _STUDY.data_dir,
        skip_missing=_SKIP_MISSING.value,
    )
    if _LINEAR.value:
        _write_table(vtab.table(_look(tasks)), "linear.md")
        return
    _fine_tune(tasks)


def _fine_tune(tasks: list[str]) -> None:
    from vit_tf.studies import runner, vtab

    model, _ = model_flags.model_of(_START_FROM.value, _VARIANT.value)
    jobs = vtab.jobs(
        model,
        tasks,
        _WORKDIR.value,
        start_from=_START_FROM.value,
        seeds=_SEEDS.value,
        change=_change,
    )
    if _LIST.value:
        for index, job in enumerate(jobs):
            print(f"{index:3}  {job.name:30} {runner.look(job)}")
        return
    try:
        runner.run_all(
            jobs,
            data_dir=_STUDY.data_dir,
            index=_INDEX.value,
            wait=_STUDY.wait,
            **_STUDY.devices(),
        )
        chosen = jobs if _INDEX.value is None else [jobs[_INDEX.value]]
        if any(runner.look(job).state.ready for job in chosen):
            command.stop()
    finally:  # what is finished is told, whatever failed
        _write_table(vtab.table(vtab.scores(jobs)), "vtab.md")


def _change(cfg: config.Config) -> None:
    if _IMAGE_SIZE.value is not None:
        cfg.data.image_size = _IMAGE_SIZE.value
    fine_tuning.check_changes(command.overridden(cfg))
    if config.Measure.ACCURACY not in cfg.evals.measures:  # the score is made of it
        cfg.evals.measures = (config.Measure.ACCURACY, *cfg.evals.measures)


def _look(tasks: list[str]):
    """Computes the quick look's scores; those of before are not computed again."""
    from vit_tf.runtime import devices
    from vit_tf.studies import vtab

    linear = vtab.Linear(
        _START_FROM.value,
        machine=devices.start(config.Train(), **_STUDY.devices()),
        image_size=_IMAGE_SIZE.value,
        variant=_VARIANT.value,
    )
    scores = []
    for number, task in enumerate(tasks, 1):
        scores.append(
            linear.score_once(
                task,
                _WORKDIR.value,
                data_dir=_STUDY.data_dir,
                batch_size=_BATCH_SIZE.value,
            )
        )
        text = f"{100 * scores[-1].mean:.2f} % of {scores[-1].count:,}"
        print(f"{number} of {len(tasks)} {task}: {text}", file=sys.stderr, flush=True)
    return scores


def _write_table(text: str, name: str) -> None:
    import tensorflow as tf

    from vit_tf.runtime import filesystem

    path = os.path.join(_WORKDIR.value, name)
    with filesystem.refusing(path):
        tf.io.gfile.makedirs(_WORKDIR.value)
    filesystem.write_whole(path, text)
    print(f"{text}\n{path}")


if __name__ == "__main__":
    command.run(main, overridable=True)
