"""Every experiment of the folder, so that tests forget no new file."""

import importlib
import pathlib

import experiments
from vit_tf.studies import experiment_spec

# Those that have cells, by name.
ALL = {
    path.stem: importlib.import_module(f"experiments.{path.stem}")
    for path in sorted(pathlib.Path(experiments.__file__).parent.glob("*.py"))
    if "\nCELLS = " in path.read_text()
}


def at(scale: experiment_spec.Scale) -> list[str]:
    """Names of the experiments that have a scale."""
    return [name for name, module in ALL.items() if scale in module.TABLE.scales]
