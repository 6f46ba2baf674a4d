"""What every tool shares: how it starts and ends, and --config with overrides.

A tool defines its flags, reads them in `main`, and calls the library once. How it
ends is the table in `tools/failures.py`.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging

from tools import failures, help_page, next_steps, overrides
from tools.flags import path_flags
from vit_tf import config, errors
from vit_tf.runtime import signals
from vit_tf.studies import experiment_files

flags.disclaim_key_flags()  # --config belongs to the tool that asks for it

_OVERRIDE = re.compile(r"^--?config\.([\w.]+)(?:=(.*))?$", re.DOTALL)
_HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort", "-?")


def run(main: Callable[[], None], *, overridable: bool = False) -> None:
    """Parses the flags, calls `main`, and ends the process as `failures` says.

    Args:
        main: what the tool does.
        overridable: take --config.FIELD=VALUE where there is no --config; `main`
            then calls `overridden`.
    """
    overridable = overridable or "config" in flags.FLAGS
    doc = sys.modules[main.__module__].__doc__

    def guarded(argv: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # TFDS and TF log a lot
        if len(argv) > 1:
            return _fail(f"unexpected argument {argv[1]!r}: options start with --")
        try:
            main()
            sys.stdout.flush()  # a full disk or a closed pipe is said here
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            return _ended_by(error, overridable)
        return failures.Exit.DONE

    parser = functools.partial(_parse_flags, overridable=overridable, doc=doc)
    app.run(guarded, flags_parser=parser)


def stop() -> NoReturn:
    """Ends the process after a signal was obeyed: what is left goes on later."""
    interrupted = signals.last_heard() == "SIGINT"
    raise SystemExit(
        failures.Exit.INTERRUPTED if interrupted else failures.Exit.STOPPED
    )


def _ended_by(error: BaseException, overridable: bool) -> int:
    """Says why the tool ends and returns its exit code; raises a program's fault."""
    explained = failures.explain(error, overridable=overridable)
    if explained is None:
        raise error
    line, code = explained
    if not line or code == failures.Exit.PIPE_CLOSED:
        # Else Python tries to write the rest when it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    with contextlib.suppress(OSError):  # what is written so far belongs before it
        sys.stdout.flush()
    return _fail(line, code=code)


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up notices.

    Called by each binary once its flags are known to be right, so that a typo is
    answered at once. The notices come from C++ and heed no setting.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise errors.UserError(
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
        "FILE.py:ARGUMENT, such as experiments/quickstart.py:pretrain, or the "
        "config.json of a run; fields are set with --config.optim.lr=3e-3.",
    )

    def loaded() -> config.Config:
        if holder.value is None:
            raise errors.UserError(
                "--config is missing: name a file, such as "
                "--config=experiments/quickstart.py:pretrain"
            )
        chosen = experiment_files.load_config(_expanded(holder.value))
        overridden(chosen)
        return chosen

    return loaded


def overridden(cfg: config.Config) -> list[str]:
    """Sets the fields of --config.FIELD=VALUE, and gives their names."""
    for path, text in _overrides:
        overrides.override(cfg, path, text)
        if path == "start_from" and cfg.start_from is not None:
            cfg.start_from = _expanded(cfg.start_from, path)
    return [path for path, _ in _overrides]


def _expanded(text: str, name: str = "config") -> str:
    """Returns a path from the command line as `path_flags` reads it."""
    try:
        return path_flags.normalized(text)
    except ValueError as error:
        raise errors.UserError(f"{name}={text}: {error}") from None


_overrides: list[tuple[str, str]] = []


def _parse_flags(
    argv: Sequence[str], *, overridable: bool, doc: str | None
) -> list[str]:
    """Parses as absl does, with config overrides taken out and errors in a line."""
    rest = list(argv)
    if any(argument in _HELP for argument in rest[1:]):
        try:
            print(help_page.write(doc, overridable=overridable), flush=True)
        except OSError as error:  # `--help | head`
            raise SystemExit(_ended_by(error, overridable)) from None
        raise SystemExit(failures.Exit.DONE)
    if overridable:
        rest, _overrides[:] = split_overrides(rest)
    try:
        return flags.FLAGS(rest)
    except flags.Error as error:
        raise SystemExit(_fail(_flag_problem(error))) from None


def split_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.a.b=c` and `--config.a.b c` out of the arguments.

    Returns:
        The other arguments, and pairs of a field and its text.
    """
    rest, pairs = [], []
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
        pairs.append((path, text))
    return rest, pairs


def _flag_problem(error: Exception) -> str:
    """Returns absl's complaint in one line, with the nearest flag for a typo."""
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = errors.nearest(error.flagname, failures.own_flags())
        return f"--{error.flagname}: no such flag{hint}"
    return " ".join(str(error).split()).removeprefix("flag ")


def _fail(message: str, code: int = failures.Exit.MISTAKE) -> int:
    print(f"error: {next_steps.as_typed(message)}", file=sys.stderr)
    return code
