"""Finds and executes the Python files that define configs and experiments.

Needs no TensorFlow, so that a mistake in a file is answered at once.
"""

import ast
import contextlib
import importlib.util
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator

import pydantic
from etils import epath

from vit_tf import config, config_values, errors
from vit_tf.studies import experiment_spec

FOLDER = pathlib.Path("experiments")


def find(name: str) -> str:
    """Returns the experiment file called `name`: a path, or a name in `FOLDER`.

    Raises:
        errors.UserError: no such experiment.
    """
    if name.endswith(".py") or "/" in name:
        return name
    known = {path.stem: str(path) for path in FOLDER.glob("*.py")}
    if name not in known:
        raise errors.UserError(
            f"experiment={name}: no such experiment{errors.nearest(name, known)}"
        )
    return known[name]


def load_experiment(name: str) -> experiment_spec.Experiment:
    """Returns what the experiment file `name` offers.

    Raises:
        errors.UserError: no such file, a mistake in it, or no cells.
    """
    name = find(name)
    given = f"experiment={name}"
    defined = _defined_names(name, given)
    if not {"CELLS", "TABLE"} <= defined:
        use = f"python -m tools.train --config={name}"
        if "get_config" not in defined:
            use = f"what {name} says at its top"
        raise errors.UserError(f"{given}: offers no CELLS with a TABLE; use {use}")
    with _refusing_mistakes(given, name):
        module = _execute(name)
        question, _, about = (module.__doc__ or "").strip().partition("\n")
        return experiment_spec.Experiment(
            pathlib.Path(name).stem,
            question,
            module.CELLS,
            module.TABLE,
            plots=getattr(module, "PLOTS", ()),
            findings=" ".join(getattr(module, "FINDINGS", "").split()),
            about=about.strip(),
        )


def load_config(text: str) -> config.Config:
    """Returns the config that 'FILE.py:ARGUMENT' or a run's config.json holds.

    Of a Python file `get_config(ARGUMENT)` is called.

    Raises:
        errors.UserError: no such file, a mistake in it, or no config.
    """
    if text.endswith(".json"):
        return _stored_config(text)
    given = f"config={text}"
    name, colon, argument = text.partition(".py:")
    name += ".py" * bool(colon)
    if not colon and not name.endswith(".py") and "://" not in name:
        name = name.partition(":")[0]
    if "get_config" not in _defined_names(name, given):
        raise errors.UserError(f"{given}: {name} defines no get_config()")
    with _refusing_mistakes(given, name):
        module = _execute(name)
        chosen = module.get_config(argument) if argument else module.get_config()
    if not isinstance(chosen, config.Config):
        raise errors.UserError(
            f"{given}: get_config() gave {type(chosen).__name__}, "
            "need a vit_tf.config.Config"
        )
    return chosen


def _stored_config(name: str) -> config.Config:
    """Reads the config.json that a run keeps."""
    try:
        text = epath.Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise errors.UserError(f"config={name}: cannot be read: {reason}") from None
    try:
        return config_values.from_json(text)
    except errors.UserError as refusal:
        raise errors.UserError(
            f"config={name}: not the config.json of a run: {refusal}"
        ) from None


def _defined_names(name: str, given: str) -> set[str]:
    """Returns the names that the Python file `name` binds at its top level.

    Looked up without executing it: a file that is something else, such as a tool,
    would do its work, or define its flags a second time.
    """
    if "://" in name:
        raise errors.UserError(
            f"{given}: need a Python file on this machine; copy it here first"
        )
    path = pathlib.Path(name)
    if path.is_dir():
        hint = path / "config.json"
        use = f"; name {hint}" if hint.is_file() else ""
        raise errors.UserError(f"{given}: {name} is a folder, need a Python file{use}")
    if not path.is_file():
        near = [str(p) for p in FOLDER.glob("*.py")]
        raise errors.UserError(
            f"{given}: no such file: {name}{errors.nearest(name, near)}"
        )
    if path.suffix != ".py":
        raise errors.UserError(f"{given}: {name} is not a Python file (.py)")
    with _refusing_mistakes(given, name):
        tree = ast.parse(path.read_bytes(), filename=name)
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    if "*" in names:  # whatever these files bind
        names |= {"get_config", "CELLS", "TABLE"}
    return names


def _execute(name: str) -> types.ModuleType:
    path = pathlib.Path(name)
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _refusing_mistakes(given: str, name: str) -> Iterator[None]:
    """Turns a mistake in a user's Python file into one line, with its place."""
    try:
        yield
    except pydantic.ValidationError as error:
        raise errors.UserError(
            f"{given}: {config_values.first_problem(error)}"
        ) from None
    except errors.UserError:
        raise
    except SystemExit:
        raise errors.UserError(f"{given}: {name} ends the process") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        line = _line_in(name)
        where = f" (line {line})" if line and "line " not in reason else ""
        raise errors.UserError(
            f"{given}: {type(error).__name__}: {reason}{where}"
        ) from error


def _line_in(name: str) -> int | None:
    """Returns the line of the file `name` at which the current exception came up."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    path = str(pathlib.Path(name).resolve())
    lines = [
        f.lineno for f in frames if str(pathlib.Path(f.filename).resolve()) == path
    ]
    return lines[-1] if lines else None
