"""What every binary shares: one-line errors, and --config with overrides.

A mistake of the user ends in one line on stderr and exit code 2; anything else
is a fault of the program and keeps its traceback.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import pydantic
from absl import app, flags, logging

from tools import overrides
from vit_tf import config
from vit_tf.studies import experiment_spec

# Exit code of what a signal stopped, so that schedulers start it again.
STOPPED = 143

_OVERRIDE = re.compile(r"^--?config\.([\w.]+)(?:=(.*))?$", re.DOTALL)


def run(main: Callable[[], None], *, overridable: bool = False) -> None:
    """Parses the flags, calls `main`, and turns `config.Refused` into a line.

    Args:
        main: what the binary does.
        overridable: take --config.FIELD=VALUE where there is no --config; `main`
            then calls `overridden`.
    """

    def guarded(argv: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # TFDS and TF tell much
        if len(argv) > 1:
            return _fail(f"unexpected argument {argv[1]!r}: options start with --")
        try:
            main()
        except config.Refused as refusal:
            return _fail(str(refusal))
        except KeyboardInterrupt:
            return _fail("interrupted", code=130)

    parser = functools.partial(_parse_flags, overridable=overridable)
    app.run(guarded, flags_parser=parser)


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up notices.

    Called by each binary once its flags are known to be right, so that a typo is
    answered at once. The notices come from C++ and heed no setting.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise config.Refused(
            f"KERAS_BACKEND={backend}: the tools train and evaluate with TensorFlow; "
            "unset it"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()  # looks for drivers, and says so


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; shows it on failure."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def define_config() -> Callable[[], config.Config]:
    """Defines --config=FILE.py:ARGUMENT and --config.FIELD=VALUE.

    The syntax is that of `ml_collections.config_flags`, which the authors' code
    uses. It is read here because that library can neither set an optional field
    to none nor name the field that was meant, and answers with tracebacks.

    Returns:
        A function for `main` that gives the config with overrides applied.
    """
    holder = flags.DEFINE_string(
        "config",
        None,
        "FILE.py:ARGUMENT, such as experiments/quickstart.py:pretrain; fields "
        "are set with --config.optim.lr=3e-3.",
    )

    def loaded() -> config.Config:
        if holder.value is None:
            raise config.Refused(
                "--config is missing: name a file, such as "
                "--config=experiments/quickstart.py:pretrain"
            )
        chosen = load_config(holder.value)
        overridden(chosen)
        return chosen

    return loaded


def overridden(cfg: config.Config) -> list[str]:
    """Sets the fields of --config.FIELD=VALUE, and gives their names."""
    for path, text in _overrides:
        overrides.override(cfg, path, text)
    return [path for path, _ in _overrides]


def load_config(text: str) -> config.Config:
    """Calls `get_config(ARGUMENT)` of the file in 'FILE.py:ARGUMENT'."""
    name, _, argument = text.partition(":")
    given = f"--config={text}"
    with _refusing_mistakes(given):
        module = _module(name, given)
        if not hasattr(module, "get_config"):
            raise config.Refused(f"{given}: {name} defines no get_config()")
        chosen = module.get_config(argument) if argument else module.get_config()
    if not isinstance(chosen, config.Config):
        raise config.Refused(
            f"{given}: get_config() gave {type(chosen).__name__}, "
            "need a vit_tf.config.Config"
        )
    return chosen


def experiment_file(name: str) -> str:
    """What --experiment means: a file, or the one of that name in experiments/.

    Raises:
        config.Refused: no such experiment.
    """
    if name.endswith(".py") or "/" in name:
        return name
    known = {path.stem: str(path) for path in pathlib.Path("experiments").glob("*.py")}
    if name not in known:
        raise config.Refused(
            f"--experiment={name}: no such experiment{config.nearest(name, known)}"
        )
    return known[name]


def load_experiment(name: str) -> experiment_spec.Experiment:
    """What the experiment file `name` offers.

    Raises:
        config.Refused: no such file, a mistake in it, or no cells.
    """
    name = experiment_file(name)
    given = f"--experiment={name}"
    with _refusing_mistakes(given):
        module = _module(name, given)
        if not hasattr(module, "CELLS") or not hasattr(module, "TABLE"):
            use = f"python -m tools.train --config={name}"
            if not hasattr(module, "get_config"):
                use = f"what {name} says at its top"
            raise config.Refused(f"{given}: offers no CELLS with a TABLE; use {use}")
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


def _module(name: str, given: str):
    """The Python file `name`, executed."""
    path = pathlib.Path(name)
    if not path.is_file():
        near = [str(p) for p in pathlib.Path("experiments").glob("*.py")]
        raise config.Refused(
            f"{given}: no such file: {name}{config.nearest(name, near)}"
        )
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise config.Refused(f"{given}: {name} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _refusing_mistakes(given: str) -> Iterator[None]:
    """Turns a mistake in a user's Python file into one line."""
    try:
        yield
    except pydantic.ValidationError as error:
        raise config.Refused(f"{given}: {config.first_problem(error)}") from None
    except config.Refused:
        raise
    except (SyntaxError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise config.Refused(f"{given}: {reason}") from error


_overrides: list[tuple[str, str]] = []


def _parse_flags(argv: Sequence[str], *, overridable: bool) -> list[str]:
    """absl's parser, with the config overrides taken out and errors in a line."""
    rest = list(argv)
    if overridable or "config" in flags.FLAGS:
        rest, _overrides[:] = _split_overrides(rest)
    try:
        return flags.FLAGS(rest)
    except flags.Error as error:
        raise SystemExit(_fail(_flag_problem(error))) from None


def _split_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.a.b=c` and `--config.a.b c` out of the arguments."""
    rest, found = [], []
    waiting = iter(argv)
    for argument in waiting:
        match = _OVERRIDE.match(argument)
        if match is None:
            rest.append(argument)
            continue
        path, text = match.groups()
        if text is None:
            text = next(waiting, None)
            if text is None:
                raise SystemExit(_fail(f"{argument}: needs a value"))
        found.append((path, text))
    return rest, found


def _flag_problem(error: Exception) -> str:
    """absl's complaint in one line, with the nearest flag for a typo."""
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = config.nearest(error.flagname, _own_flags())
        return f"--{error.flagname}: no such flag{hint}"
    return " ".join(str(error).split())


def _own_flags() -> list[str]:
    """Flags of the running binary and of this package, not of the libraries."""
    return [
        flag.name
        for module, found in flags.FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith(("tools", "__main__"))
        for flag in found
    ]


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
