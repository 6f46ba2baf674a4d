"""Trains one config; the same command resumes it, or says that it is finished.

python -m tools.train --config=experiments/quickstart.py:pretrain \
    --config.optim.lr=3e-3 --workdir=runs/pretrain

On several hosts, one process each: the same command with --strategy=multi_worker and
TF_CONFIG, or with --num_workers=2 --worker_index=0 --coordinator=first-host:2222.
"""

from absl import flags

from tools import command
from vit_tf import errors

_CONFIG = command.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, made if it is not there.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where prepared data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one", "mirrored", "multi_worker", "tpu"],
    "auto: all local GPUs, else one device. mirrored: over --num_devices. "
    "multi_worker: this is one of several processes, see TF_CONFIG or --num_workers.",
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices",
    None,
    "Devices to use. Without a GPU: as many virtual CPU devices.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Processes that train together; writes TF_CONFIG.", 1
)
_WORKER_INDEX = flags.DEFINE_integer(
    "worker_index", None, "Which of them this is; 0 writes the run.", 0
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where worker 0 can be reached by the others."
)
_TPU = flags.DEFINE_string(
    "tpu", None, "'local' on a TPU VM, or the TPU's name; chooses --strategy=tpu."
)


def main() -> None:
    cfg = _CONFIG()
    strategy = _chosen_strategy()
    command.load_tensorflow()
    from vit_tf.runtime import cluster, devices
    from vit_tf.studies import training

    workers = None
    if _NUM_WORKERS.value is not None:
        workers = cluster.rendezvous(
            _COORDINATOR.value,
            num_workers=_NUM_WORKERS.value,
            index=_WORKER_INDEX.value,
        )
    machine = devices.start(
        cfg.train,
        strategy=devices.Strategy(strategy),
        num_devices=_NUM_DEVICES.value,
        workers=workers,
        tpu=_TPU.value or "local",
    )
    result = training.train(
        cfg, _WORKDIR.value, machine=machine, data_dir=_DATA_DIR.value
    )
    if result is None or not machine.processes.chief:
        return
    print(f"{_WORKDIR.value}: {result['steps']} steps on {result['device']}")
    for metric in result["metrics"]:
        print("  {split} {name} {value:.4f} (n={count})".format(**metric))


def _chosen_strategy() -> str:
    """--strategy, or the one that the flags of workers and TPUs stand for."""
    several = {
        "num_workers": _NUM_WORKERS.value,
        "worker_index": _WORKER_INDEX.value,
        "coordinator": _COORDINATOR.value,
    }
    given = [name for name, value in several.items() if value is not None]
    missing = [f"--{name}" for name in several if name not in given]
    if given and missing:
        raise errors.UserError(f"--{given[0]}: needs {' and '.join(missing)} as well")
    for asked, kind in ((given, "multi_worker"), (_TPU.value, "tpu")):
        if asked and _STRATEGY.value not in ("auto", kind):
            name = "tpu" if kind == "tpu" else given[0]
            raise errors.UserError(f"--{name}: not with --strategy={_STRATEGY.value}")
    if given and _TPU.value:
        raise errors.UserError(
            f"--tpu: not with --{given[0]}, one process drives a TPU"
        )
    return "multi_worker" if given else "tpu" if _TPU.value else _STRATEGY.value


if __name__ == "__main__":
    command.run(main)
