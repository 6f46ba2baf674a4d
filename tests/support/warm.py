"""Commands in processes that fork from one which has imported TensorFlow already.

Importing it takes longer than most of what the tests' commands do. The process that
imports has computed nothing and started no device, so a fork of it stands where a
fresh `python -m` does once its imports are done. What a cold start prints and how long
it waits with its imports is tested by `tests/tools/test_command.py`.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]

_IMPORTED = [
    "vit_tf.studies.training",
    "vit_tf.data.preparation.prepare",
    "tools.command",
]


def start(*arguments: str, env=(), prepare=None) -> "Process":
    """`python -m NAME ...`, `-c CODE ...` or `PATH ...` in the project's folder.

    Args:
        env: more variables of the environment.
        prepare: a function that can be pickled, which the process calls first.
    """
    return Process(arguments, os.environ | dict(env), prepare)


def run(
    *arguments: str, env=(), prepare=None, timeout=300
) -> subprocess.CompletedProcess:
    """As `subprocess.run` with captured text; `env` and `prepare` as in `start`."""
    process = start(*arguments, env=env, prepare=prepare)
    said, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, said, errors)


class Process:
    """As much of `subprocess.Popen` as the tests use."""

    def __init__(self, arguments, env, prepare):
        self._said = tempfile.TemporaryDirectory()
        outputs = [os.path.join(self._said.name, n) for n in ("stdout", "stderr")]
        self._outputs = [pathlib.Path(name) for name in outputs]
        self._process = _context().Process(
            target=_become, args=(arguments, env, prepare, outputs)
        )
        self._process.start()
        atexit.register(self._process.kill)  # a failed test leaves nobody behind

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> list[str]:
        """Waits for the end; what was written to stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        atexit.unregister(self._process.kill)
        with self._said:
            return [file.read_text() if file.exists() else "" for file in self._outputs]


def _context():
    if sys.platform != "linux":  # Apple's libraries do not survive a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)  # heeded by the first process only
    return context


def _become(arguments, env, prepare, outputs):
    """Turns this process into `python *arguments`."""
    # Tests started in a shell's background inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    sys.path.insert(0, str(ROOT))
    from tools import command

    command.load_tensorflow()  # parsing flags looks for devices, once it is there
    for stream, name in zip((sys.stdout, sys.stderr), outputs):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
        os.close(file)
        stream.reconfigure(line_buffering=True)
    if prepare is not None:
        prepare()
    try:
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})  # noqa: S102
        else:
            sys.argv = list(arguments)
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
