"""Every cell of every experiment at scale `paper`, without training any."""

import dataclasses
import functools
import importlib
import math
import pathlib
import re
import statistics

import keras
import pytest

from experiments import table
from vit_tf import config, cost, optim, pace, recipes, vtab_protocol
from vit_tf.data import datasets
from vit_tf.models import build

FOLDER = pathlib.Path(table.__file__).parent

# Found in the folder, so that no new file is forgotten.
EXPERIMENTS = {
    path.stem: importlib.import_module(f"experiments.{path.stem}")
    for path in sorted(FOLDER.glob("*.py"))
    if "\nCELLS = " in path.read_text()
}
AT_PAPER = {
    name: module
    for name, module in EXPERIMENTS.items()
    if table.Scale.PAPER in module.TABLE.scales
}
every_experiment = pytest.mark.parametrize("name", AT_PAPER)
