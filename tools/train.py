"""Trains one config; the same command resumes it, or says that it is finished.

python -m tools.train --config=experiments/quickstart.py:pretrain \
    --config.optim.lr=3e-3 --workdir=runs/pretrain

On several hosts, one process each: the same command with --strategy=multi_worker and
TF_CONFIG, or with --num_workers=2 --worker_index=0 --coordinator=first-host:2222.
"""

from typing import Any

from tools import command, next_steps
from tools.flags import data_flags, device_flags, path_flags
from vit_tf import config

_CONFIG = command.define_config()
_WORKDIR = path_flags.define_path(
    "workdir", None, "The run's folder, made if it is not there.", required=True
)
_DATA_DIR = data_flags.define_data_dir()
_DEVICES = device_flags.DeviceFlags(("auto", "one", "mirrored", "multi_worker", "tpu"))
_WORKERS = device_flags.WorkerFlags()


def main() -> None:
    cfg = _CONFIG()
    given = _WORKERS.given()
    if given is not None:
        _DEVICES.force("multi_worker", why=given)
    _DEVICES.check()
    path_flags.check_folder(_WORKDIR)
    command.load_tensorflow()
    from vit_tf.runtime import devices
    from vit_tf.studies import training

    workers = _WORKERS.meet()
    machine = devices.start(cfg.train, workers=workers, **_DEVICES())
    result = training.train(
        cfg, _WORKDIR.value, machine=machine, data_dir=_DATA_DIR.value
    )
    if result is None:
        command.stop()
    if machine.processes.chief:
        _print_result(result)
        _show_next(cfg)


def _print_result(result: dict[str, Any]) -> None:
    """Shows the run's numbers."""
    print(f"{_WORKDIR.value}: {result['steps']} steps on {result['device']}")
    for metric in result["metrics"]:
        print("  {split} {name} {value:.4f} (n={count})".format(**metric))


def _show_next(cfg: config.Config) -> None:
    """Shows what the finished run is good for."""
    run = _WORKDIR.value
    if cfg.objective.task == config.Task.CLASSIFICATION:
        name = cfg.data.name.partition("+")[0].partition("*")[0]  # the first of a mix
        next_steps.show(*next_steps.after_training(run, name, _DATA_DIR.value))
        return
    shown = {"checkpoint": run, "to": "figures", "data_dir": _DATA_DIR.value}
    next_steps.show(
        next_steps.command_line("visualize", what="masked_patches", **shown),
        next_steps.command_line(
            "transfer", start_from=run, dataset="NAME", workdir="DIR"
        ),
    )


if __name__ == "__main__":
    command.run(main)
