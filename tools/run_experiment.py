"""Runs the cells of an experiment; the same command goes on with what is left.

python -m tools.run_experiment --experiment=experiments/quickstart.py --list
python -m tools.run_experiment --experiment=experiments/quickstart.py --record

Started several times, also on several hosts that share the folder, each run is done
once. docs/experiments.md has the scripts for Slurm and Kubernetes.
"""

import os
import pathlib

from absl import flags

from tools import command, next_steps
from tools.flags import model_flags, number_flags, path_flags, study_flags
from tools.reporting import results
from vit_tf import errors
from vit_tf.studies import experiment_files, experiment_spec

_EXPERIMENT = path_flags.define_path(
    "experiment",
    None,
    "FILE.py, such as experiments/quickstart.py, or its name alone.",
    required=True,
)
_SCALE = flags.DEFINE_enum(
    "scale",
    "small",
    [str(scale) for scale in experiment_spec.Scale],
    "smoke: a few steps, to see that it runs. paper: the real thing.",
)
_RUNS = path_flags.define_path(
    "runs",
    "runs",
    "Where all experiments' runs go, as EXPERIMENT/SCALE/RUN, so that they can share "
    "them.",
)
_FOLDER = path_flags.define_path(
    "folder", None, "Where the runs of this one go instead; they are shared with none."
)
_LIST = flags.DEFINE_bool("list", False, "Shows the runs and how far they are.")
_INDEX = number_flags.define_integer(
    "index", None, "Do only this run, by its number in --list.", lower=0
)
_ONLY = flags.DEFINE_string("only", None, "Do only the runs of this cell.")
_START_FROM = model_flags.define_start_from(
    "A released .npz or a finished run's folder, for cells that start from one."
)
_RECORD = flags.DEFINE_bool(
    "record", False, "Copy finished runs' results to --results, for tools.report."
)
_RESULTS = path_flags.define_path(
    "results", results.ROOT, "Where results are recorded."
)
_STUDY = study_flags.StudyFlags()


def main() -> None:
    experiment = experiment_files.load_experiment(_EXPERIMENT.value)
    scale = _checked_scale(experiment)
    runs = experiment_spec.runs(experiment.cells, scale)
    _override(runs)
    _check_choice(experiment, runs)
    if not _LIST.value:
        path_flags.check_folder(_RUNS if _FOLDER.value is None else _FOLDER)
        if _RECORD.value:
            path_flags.check_folder(_RESULTS)
    command.load_tensorflow()
    from vit_tf.studies import runner

    jobs = _jobs(experiment, scale, runs)
    if _LIST.value:
        _print_list(runs, jobs)
        return
    chosen = [
        job
        for run, job in zip(runs, jobs)
        if _ONLY.value in (None, run.cell.name) and _INDEX.value in (None, run.index)
    ]
    try:
        results_of = runner.run_all(
            chosen,
            data_dir=_STUDY.data_dir,
            wait=_STUDY.wait,
            **_STUDY.devices(),
        )
        for job, result in zip(chosen, results_of):
            _print_result(job.name, result)
        if any(runner.look(job).state.ready for job in chosen):
            command.stop()
    finally:  # what is finished is recorded, whatever failed
        if _RECORD.value:
            _record(experiment, scale, runs, jobs)


def _checked_scale(experiment: experiment_spec.Experiment) -> experiment_spec.Scale:
    scales = experiment.table.scales
    if _SCALE.value not in scales:
        raise errors.UserError(
            f"--scale={_SCALE.value}: {experiment.name} offers {', '.join(scales)}"
        )
    return experiment_spec.Scale(_SCALE.value)


def _override(runs: list[experiment_spec.Run]) -> None:
    """Applies --config.FIELD=VALUE to every run; such runs lie and stay apart."""
    names: list[str] = []
    for run in runs:
        names = command.overridden(run.config)
    if not names:
        return
    if "train.seed" in names:
        raise errors.UserError(
            "--config.train.seed: each repetition has its own; use tools.train for one "
            "run with another"
        )
    given = f"--config.{names[0]}"
    if _RECORD.value:
        raise errors.UserError(
            f"{given}: overridden runs are not the experiment's, so they are not "
            "recorded; leave out --record, or change the cell"
        )
    if _FOLDER.value is None:
        raise errors.UserError(
            f"{given}: add --folder=PATH, so that overridden runs do not lie among the "
            "experiment's own"
        )


def _check_choice(
    experiment: experiment_spec.Experiment, runs: list[experiment_spec.Run]
) -> None:
    """Refuses an --only, --index or --start_from that fits no run."""
    only, index = _ONLY.value, _INDEX.value
    if only is not None and only not in experiment.cells:
        raise errors.UserError(
            f"--only={only}: no such cell{errors.nearest(only, experiment.cells)}"
        )
    if only is not None and index is not None:
        raise errors.UserError("--only and --index: give one of them")
    if index is not None and not 0 <= index < len(runs):
        raise errors.UserError(
            f"--index={index}: {experiment.name} has {len(runs)} runs at this scale, 0 "
            f"to {len(runs) - 1}; --list shows them"
        )
    given = [cell.name for cell in experiment.cells.values() if cell.start_given]
    if _START_FROM.value is not None and not given:
        raise errors.UserError(
            f"--start_from={_START_FROM.value}: no cell of {experiment.name} starts "
            "from other weights; leave it out"
        )
    if given and _START_FROM.value is None and not _LIST.value:
        raise errors.UserError(
            f"--start_from is missing: {given[0]} starts from other weights; name a "
            "released .npz or a finished run's folder"
        )


def _jobs(
    experiment: experiment_spec.Experiment,
    scale: experiment_spec.Scale,
    runs: list[experiment_spec.Run],
):
    from vit_tf.studies import runner

    jobs: dict[str, runner.Job] = {}  # starts come first
    for run in runs:
        needs = jobs[run.starts_from] if run.starts_from else None
        folder = _run_folder(experiment, scale, run)
        if run.cell.start_given:  # --list may leave it out: then as the run began
            run.config.start_from = _START_FROM.value or runner.begun_from(folder)
        jobs[run.name] = runner.Job(run.name, run.config, folder, needs)
    return list(jobs.values())


def _run_folder(
    experiment: experiment_spec.Experiment,
    scale: experiment_spec.Scale,
    run: experiment_spec.Run,
) -> str:
    if _FOLDER.value is not None:
        return os.path.join(_FOLDER.value, run.name)
    home, name = run.shared or (experiment.name, run.name)
    return os.path.join(_RUNS.value, home, scale, name)


def _print_list(runs: list[experiment_spec.Run], jobs) -> None:
    """Prints a line for each run; the status comes last, as it may be long."""
    from vit_tf.studies import runner

    rows = [("index", "run", "seed", "length", "starts from", "status")]
    for run, job in zip(runs, jobs):
        start = run.starts_from or ("--start_from" if run.cell.start_given else "-")
        length = f"{run.config.train.length:g} {run.config.train.unit}"
        status = str(runner.look(job))
        if run.shared is not None:
            status += f" (shared with {run.shared[0]})"
        rows.append((str(run.index), run.name, str(run.seed), length, start, status))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{text:<{w}}" for text, w in zip(row, widths)).rstrip())


def _print_result(name: str, result) -> None:
    if result is None:
        return
    print(f"{name}: {result['steps']} steps on {result['device']}")
    for metric in result["metrics"]:
        print("  {split} {name} {value:.4f} (n={count})".format(**metric))


def _record(experiment, scale, runs: list[experiment_spec.Run], jobs) -> None:
    """Copies the results of all finished runs, and says where."""
    from vit_tf.runs import run_directory
    from vit_tf.studies import runner

    by_folder = {job.folder: runner.result(job.folder) for job in jobs}
    refused, recorded = [], False
    for run, job in zip(runs, jobs):
        if not runner.look(job).state.finished:
            continue
        given = run.cell.start_given
        entry = results.entry(
            experiment.name,
            run,
            scale,
            by_folder[job.folder],
            run_directory.read_rows(job.folder),
            start=runner.noted_start(job.folder)
            if given
            else by_folder.get(job.needed),
        )
        try:
            path = results.write(_RESULTS.value, entry, start_given=given)
        except errors.UserError as refusal:  # the others are recorded all the same
            refused.append(str(refusal))
            continue
        print(f"{run.name}: recorded in {pathlib.PurePath(path)}")
        recorded = True
    if recorded:
        given = None if _RESULTS.value == results.ROOT else _RESULTS.value
        next_steps.show(next_steps.command_line("report", results=given))
    if refused:
        more = f" (and {len(refused) - 1} more like this)" if refused[1:] else ""
        raise errors.UserError(f"{refused[0]}{more}")


if __name__ == "__main__":
    command.run(main, overridable=True)
