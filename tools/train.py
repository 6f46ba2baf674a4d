"""Trains one config; the same command resumes it, or says that it is finished.

python -m tools.train --config=experiments/quickstart.py:pretrain \
    --config.optim.lr=3e-3 --workdir=runs/pretrain
"""

from absl import flags

from tools import command

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
    ["auto", "one", "mirrored"],
    "auto: all local GPUs, else one device. mirrored: over --num_devices.",
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices",
    None,
    "Devices to use. Without a GPU: as many virtual CPU devices.",
    lower_bound=1,
)


def main() -> None:
    cfg = _CONFIG()
    command.load_tensorflow()
    from vit_tf import runtime, train

    machine = runtime.start(
        cfg.train,
        strategy=runtime.Strategy(_STRATEGY.value),
        num_devices=_NUM_DEVICES.value,
    )
    result = train.train(cfg, _WORKDIR.value, machine=machine, data_dir=_DATA_DIR.value)
    if result is None:
        return
    print(f"{_WORKDIR.value}: {result['steps']} steps on {result['device']}")
    for metric in result["metrics"]:
        print("  {split} {name} {value:.4f} (n={count})".format(**metric))


if __name__ == "__main__":
    command.run(main)
