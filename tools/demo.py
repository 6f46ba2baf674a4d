"""The whole story on embedded data: pre-train, transfer, compare, one page.

python -m tools.demo --workdir=runs/demo
"""

import pathlib

from absl import flags

from tools import command

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Where runs and page go.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where data sets are prepared; by default WORKDIR/data."
)
_SCALE = flags.DEFINE_enum(
    "scale", "small", ["smoke", "small"], "smoke: a few steps, to see that it runs."
)


def main() -> None:
    command.load_tensorflow()
    from experiments import quickstart
    from tools.reporting import demo_page
    from vit_tf.data import catalog
    from vit_tf.data.preparation import prepare
    from vit_tf.runtime import devices
    from vit_tf.studies import training

    workdir = pathlib.Path(_WORKDIR.value)
    data_dir = _DATA_DIR.value or str(workdir / "data")
    for name in ("shapes", "digits"):
        prepare.prepare_dataset(name, catalog.Path(data_dir))
    for name in demo_page.RUNS:
        cfg = quickstart.get_config(f"{name},{_SCALE.value}")
        if name == "finetune":
            cfg.start_from = str(workdir / "pretrain")
        machine = devices.start(cfg.train)
        result = training.train(
            cfg, str(workdir / name), machine=machine, data_dir=data_dir
        )
        if result is None:  # stopped by a signal, which has been said
            return
    page = demo_page.write(workdir, data_dir=data_dir)
    print(f"\nopen {page}")


if __name__ == "__main__":
    command.run(main)
