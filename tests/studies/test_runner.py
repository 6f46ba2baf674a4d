"""Each job is done once, whatever is killed, fails, or runs beside it."""

import hashlib
import json
import pathlib
import re
import signal
import time

import pytest

from tests.support import tiny, warm
from vit_tf import config, errors
from vit_tf.runs import run_directory
from vit_tf.runtime import devices, signals
from vit_tf.studies import runner


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Puts training of no time in place of the real one; lists what it trained."""
    names = []

    def train(cfg, workdir, *, machine, data_dir):
        del machine, data_dir
        with run_directory.RunDirectory(workdir, cfg) as run:
            if (found := run.result()) is not None:
                return found
            run.begin(0, data={})
            names.append(pathlib.Path(workdir).name)
            run.write({"step": 1, "loss": 1.0})
            if cfg.data.name == "broken":
                raise RuntimeError("the disk\nis on fire")
            if cfg.data.name == "stopped":
                return None
            run.finish(run_directory.describe(cfg, device="none", dataset="none"))
            return run.result()

    monkeypatch.setattr(runner.training, "train", train)
    return names


def _job(root, name, needs=None, **changes) -> runner.Job:
    start = None if needs is None else str(root / needs)
    return runner.Job(name, tiny.make(**changes), str(root / name), needs=start)


def _states(jobs) -> list[str]:
    return [str(runner.look(job).state) for job in jobs]


def test_jobs_are_done_in_order_and_once(tmp_path, trained):
    jobs = [_job(tmp_path, "a"), _job(tmp_path, "b", needs="a")]
    assert _states(jobs) == ["to do", "waiting"]
    first = runner.run_all(jobs)
    assert trained == ["a", "b"] and _states(jobs) == ["done", "done"]
    assert first[1]["config"]["start_from"] == str(tmp_path / "a")
    assert runner.run_all(jobs) == first
    assert trained == ["a", "b"]


def test_one_index_is_done_alone(tmp_path, trained):
    jobs = [_job(tmp_path, name) for name in "abc"]
    (found,) = runner.run_all(jobs, index=1)
    assert trained == ["b"] and found["device"] == "none"
    with pytest.raises(errors.UserError, match="--index=3: there are 3 jobs, 0 to 2"):
        runner.run_all(jobs, index=3)


def test_a_job_does_not_begin_before_its_start_is_finished(tmp_path, trained):
    job = _job(tmp_path, "b", needs="a")
    for attempt in (lambda: runner.run(job), lambda: runner.run_all([job])):
        with pytest.raises(errors.UserError, match=f"waiting: for {tmp_path}/a"):
            attempt()
    assert not trained and not (tmp_path / "b").exists()


def test_others_go_on_after_a_failure(tmp_path, trained, capsys):
    broken = _job(tmp_path, "a", data__name="broken")
    jobs = [broken, _job(tmp_path, "b", needs="a"), _job(tmp_path, "c")]
    with pytest.raises(errors.UserError) as refusal:
        runner.run_all(jobs)
    said = str(refusal.value)
    assert said.startswith("2 of 3 jobs not finished: a: failed: RuntimeError")
    assert "b: waiting" in said and "\n" not in said
    assert _states(jobs) == ["failed", "waiting", "done"]
    text = (tmp_path / "a" / "failure.txt").read_text()
    assert "Traceback" in text and text.rstrip().endswith("is on fire")
    assert "job 3 of 3: c: done" in capsys.readouterr().err


class _Freed:
    """Asks to stop where Python drops what is raised, as when a model is freed."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_in_a_finalizer_is_not_lost(tmp_path, trained, monkeypatch):
    usual, heard = runner.training.train, []

    def train(*args, **kwargs):
        _Freed()
        with signals.stop_requests() as stop:
            heard.append(bool(stop))
        return usual(*args, **kwargs)

    monkeypatch.setattr(runner.training, "train", train)
    jobs = [_job(tmp_path, name) for name in "ab"]
    # A shell's background job would not hear of it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run_all(jobs)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    # The run hears of it, and would save and stop; this one was over before.
    assert heard == [True] and _states(jobs) == ["done", "to do"]
    with signals.stop_requests() as stop:
        assert not stop


def test_what_all_jobs_lack_is_told_once(tmp_path, trained):
    jobs = [_job(tmp_path, name, data__name="broken") for name in "abcdef"]
    with pytest.raises(errors.UserError) as refusal:
        runner.run_all(jobs)
    said = str(refusal.value)
    assert said.count("is on fire") == 1 and f"(see {tmp_path}/a/failure.txt)" in said
    assert said.startswith("6 of 6 jobs not finished: a, b, c and 3 more: failed: ")


def test_a_failed_job_is_tried_again_and_its_failure_forgotten(tmp_path, trained):
    job = _job(tmp_path, "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "failure.txt").write_text("Traceback\nOSError: no network\n")
    assert "failed: OSError: no network" in str(runner.look(job))
    runner.run_all([job])
    assert trained == ["a"] and _states([job]) == ["done"]
    assert not (tmp_path / "a" / "failure.txt").exists()


def test_what_failed_elsewhere_meanwhile_is_not_tried_here(
    tmp_path, trained, monkeypatch
):
    quick = runner.training.train

    def train(cfg, workdir, **options):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "failure.txt").write_text("OSError: over there\n")
        return quick(cfg, workdir, **options)

    monkeypatch.setattr(runner.training, "train", train)
    with pytest.raises(errors.UserError, match="b: failed: OSError: over there"):
        runner.run_all([_job(tmp_path, "a"), _job(tmp_path, "b")])
    assert trained == ["a"]


def test_a_signal_stops_the_study(tmp_path, trained):
    jobs = [_job(tmp_path, "a", data__name="stopped"), _job(tmp_path, "b")]
    assert runner.run_all(jobs) == [None, None]
    assert trained == ["a"] and _states(jobs) == ["cut off", "to do"]


def test_a_run_of_another_config_is_stale_and_left_alone(tmp_path, trained):
    runner.run_all([_job(tmp_path, "a")])
    before = (tmp_path / "a" / "result.json").read_text()
    changed = _job(tmp_path, "a", optim__lr=1)
    with pytest.raises(errors.UserError) as refusal:
        runner.run_all([changed, _job(tmp_path, "b")])
    assert "stale: its run has optim.lr: 0.003 against 1.0" in str(refusal.value)
    assert f"remove {tmp_path / 'a'}" in str(refusal.value)
    assert (tmp_path / "a" / "result.json").read_text() == before
    assert trained == ["a", "b"]


def test_a_run_whose_start_has_changed_is_stale(tmp_path, trained):
    job = _job(tmp_path, "b", needs="a")
    runner.run_all([_job(tmp_path, "a"), job])
    (tmp_path / "a" / "result.json").unlink()
    (tmp_path / "a" / "config.json").unlink()
    runner.run_all([_job(tmp_path, "a", optim__lr=1)])
    said = str(runner.look(job))
    assert f"it started from {tmp_path}/a when that had optim.lr: 0.003" in said


def test_nothing_starts_from_a_stale_run(tmp_path, trained, monkeypatch):
    runner.run_all([_job(tmp_path, "a")])
    start = _job(tmp_path, "a", optim__lr=1)
    job = runner.Job("b", tiny.make(), str(tmp_path / "b"), needs=start)
    last = runner.Job("c", tiny.make(), str(tmp_path / "c"), needs=job)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    for attempt in (
        lambda: runner.run(job),
        lambda: runner.run_all([start, job, last]),
        lambda: runner.run_all([start, job], index=1, wait=True),
    ):
        with pytest.raises(errors.UserError) as refusal:
            attempt()
        said = str(refusal.value)
        assert f"b: waiting: for {tmp_path}/a, which is stale: its run has" in said
        assert "optim.lr: 0.003 against 1.0" in said and "\n" not in said
    assert trained == ["a"]


def test_what_came_from_a_stale_run_is_stale_too(tmp_path, trained):
    def chain(**changes):
        jobs = [_job(tmp_path, "a", **changes)]
        for name in "bc":
            folder = str(tmp_path / name)
            jobs.append(runner.Job(name, tiny.make(), folder, needs=jobs[-1]))
        return jobs

    runner.run_all(chain())
    assert _states(chain()) == ["done"] * 3
    _, b, c = (str(runner.look(job)) for job in chain(optim__lr=1))
    assert b.startswith(f"stale: its start {tmp_path}/a is stale: its run has optim.lr")
    assert c.startswith(f"stale: its start {tmp_path}/b is stale: its start")


def _given(root, name, start) -> runner.Job:
    """A job whose config itself names its start."""
    return runner.Job(name, tiny.make(start_from=start), str(root / name))


def test_a_file_that_a_run_starts_from_is_known_by_its_content(tmp_path, trained):
    weights = tmp_path / "w.npz"
    weights.write_bytes(b"one")
    job = _given(tmp_path, "a", weights)
    runner.run_all([job])
    noted = json.loads((tmp_path / "a" / "start.json").read_text())
    assert noted["name"] == "w.npz" and noted["size"] == 3
    assert noted["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert _states([job]) == ["done"]
    for content, said in (
        (b"three", "size: 3 against 5"),
        (b"two", "sha256: 7692c3ad"),
    ):
        weights.write_bytes(content)
        said = f"stale: it started from {weights} when that had {said}"
        assert str(runner.look(job)).startswith(said)
    weights.unlink()  # nothing says that the run is not what it should be
    assert _states([job]) == ["done"]


def test_a_given_run_is_known_by_its_config(tmp_path, trained):
    job = _given(tmp_path, "b", f"{tmp_path}/a/")
    runner.run_all([_job(tmp_path, "a"), job])
    assert _states([job]) == ["done"]
    for name in ("config.json", "result.json"):
        (tmp_path / "a" / name).unlink()
    assert _states([job]) == ["done"]
    runner.run_all([_job(tmp_path, "a", optim__lr=1)])
    assert "a/ when that had optim.lr: 0.003 against 1.0" in str(runner.look(job))


def test_a_given_start_may_be_named_in_other_ways(tmp_path, trained, monkeypatch):
    runner.run_all([_job(tmp_path, "a")])
    monkeypatch.chdir(tmp_path)
    begun = tiny.make(start_from=f"{tmp_path}/a")
    with run_directory.RunDirectory(str(tmp_path / "b"), begun) as run:
        run.begin(0, data={})
    runner.run_all([_given(tmp_path, "b", "./a/")])
    assert runner.result("b")["config"]["start_from"] == f"{tmp_path}/a"
    names = (f"{tmp_path}/a", f"{tmp_path}/a/", "a", "a/", "a/.", "/mnt/elsewhere/a")
    for name in names:
        assert _states([_given(tmp_path, "b", name)]) == ["done"], name
    other = str(runner.look(_given(tmp_path, "b", "c")))
    assert f"stale: its run has start_from: {tmp_path}/a against c" in other


def test_a_knob_that_is_new_since_then_makes_nothing_stale(tmp_path, trained):
    job = _job(tmp_path, "b", needs="a")
    runner.run_all([_job(tmp_path, "a"), job])
    for path in ("a/config.json", "a/result.json", "b/config.json", "b/start.json"):
        found = json.loads((tmp_path / path).read_text())
        del found.get("config", found)["optim"]["polyak"]
        (tmp_path / path).write_text(json.dumps(found))
    assert _states([job]) == ["done"]


def test_a_folder_may_move(tmp_path, trained):
    (tmp_path / "old").mkdir()
    runner.run_all(
        [_job(tmp_path / "old", "a"), _job(tmp_path / "old", "b", needs="a")]
    )
    (tmp_path / "old").rename(tmp_path / "new")
    new = tmp_path / "new"
    assert _states([_job(new, "a"), _job(new, "b", needs="a")]) == ["done", "done"]
    started = json.loads((new / "b" / "start.json").read_text())
    assert started["name"] == "a"
    assert config.from_json(json.dumps(started["config"])) == tiny.make()


def test_a_run_of_another_commit_counts_as_done(tmp_path, trained, monkeypatch, capsys):
    job = _job(tmp_path, "a")
    runner.run_all([job])
    monkeypatch.setattr(run_directory, "commit", lambda: "0" * 40)
    assert "of other code: commit " in str(runner.look(job))
    runner.run_all([job])
    assert trained == ["a"] and "of other code" in capsys.readouterr().err


def test_what_runs_elsewhere_is_left_to_it(tmp_path, trained, capsys):
    jobs = [_job(tmp_path, "a"), _job(tmp_path, "b", needs="a"), _job(tmp_path, "c")]
    with run_directory.RunDirectory(jobs[0].folder, jobs[0].config):
        assert _states(jobs) == ["running elsewhere", "waiting", "to do"]
        with pytest.raises(
            run_directory.InUse, match="a: another process is running it"
        ):
            runner.run(jobs[0])
        assert [bool(found) for found in runner.run_all(jobs)] == [False, False, True]
    assert trained == ["c"]
    assert "study: left to other processes: a" in capsys.readouterr().err
    assert not (tmp_path / "a" / "failure.txt").exists()


def test_waiting_for_what_runs_elsewhere(tmp_path, trained, monkeypatch):
    jobs = [_job(tmp_path, "a"), _job(tmp_path, "b", needs="a")]
    held = run_directory.RunDirectory(jobs[0].folder, jobs[0].config)

    def sleep(seconds):
        if seconds == runner.WAIT_SECONDS:
            held.close()  # as a process that is killed does

    monkeypatch.setattr(time, "sleep", sleep)
    assert all(runner.run_all(jobs, wait=True))
    assert trained == ["a", "b"]


def test_what_is_waited_for_is_said_once(tmp_path, trained, monkeypatch, capsys):
    """Also where nobody runs it, which may last for ever."""
    sleeps = []

    def sleep(seconds):
        if seconds == runner.WAIT_SECONDS:
            sleeps.append(seconds)
            if len(sleeps) == 3:
                runner.run(_job(tmp_path, "a"))

    monkeypatch.setattr(time, "sleep", sleep)
    start, job = _job(tmp_path, "a"), _job(tmp_path, "b")
    job = runner.Job("b", job.config, job.folder, needs=start)
    assert all(runner.run_all([job], wait=True)) and len(sleeps) == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    (line,) = said
    assert line.startswith(f"study: b: waiting: for {tmp_path}/a, to be finished first")
    assert "; no process seems to run it now" in line


def test_a_job_is_not_run_over_several_hosts(tmp_path, trained):
    with pytest.raises(errors.UserError, match="train a run over several hosts"):
        runner.run(_job(tmp_path, "a"), strategy=devices.Strategy.MULTI_WORKER)


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(tmp_path, data_dir):
    """With the real loop, twice in one process."""
    job = _job(tmp_path, "a", train__length=6)
    runner.run_all([job], data_dir=data_dir)
    rows, state = tiny.rows(job.folder), tiny.newest_state(job.folder)
    (tmp_path / "a" / "result.json").unlink()
    marks = sorted((tmp_path / "a" / "checkpoints").glob("step_*/complete.json"))
    marks[-1].unlink()
    assert _states([job]) == ["cut off"]
    runner.run_all([job], data_dir=data_dir)
    assert tiny.rows(job.folder) == rows
    again = tiny.newest_state(job.folder)
    assert all((again[name] == state[name]).all() for name in state)


_SHARING = """
import os, pathlib, sys, time
from tests.support import tiny
from vit_tf.runs import run_directory
from vit_tf.studies import runner

root = pathlib.Path(sys.argv[1])

def train(cfg, workdir, *, machine, data_dir):
    with run_directory.Run(workdir, cfg) as run:
        if run.result() is None:
            run.begin(0, data={})
            with open(root / "trained.txt", "a") as file:
                file.write(f"{pathlib.Path(workdir).name}\\n")
            time.sleep(0.2)
            run.finish(run_directory.describe(cfg, device="none", dataset="none"))
        return run.result()

runner.training.train = train
(root / f"ready{os.getpid()}").touch()
while len(list(root.glob("ready*"))) < 2:
    time.sleep(0.01)
jobs = [runner.Job(f"j{i}", tiny.make(), str(root / f"j{i}")) for i in range(8)]
jobs[5:] = [runner.Job(j.name, j.config, j.folder, needs=jobs[0].folder) for j in jobs[5:]]
runner.run_all(jobs)
"""


def test_two_processes_share_a_folder(tmp_path):
    """Each job is trained exactly once, and both processes take part."""
    command = ["-c", _SHARING, str(tmp_path)]
    processes = [warm.start(*command) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    trained = (tmp_path / "trained.txt").read_text().split()
    assert sorted(trained) == [f"j{i}" for i in range(8)]
    assert all(": done in" in text for text in said)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_another_process_goes_on_with_what_one_left(tmp_path, data_dir, number):
    command = [
        "-m",
        "tools.run_experiment",
        "--experiment=tests/support/tiny_experiment.py",
        "--config.train.length=300",  # not over when the signal comes
        "--config.train.log_every_steps=15",
        f"--folder={tmp_path}",
        f"--data_dir={data_dir}",
        "--wait",
    ]
    first = warm.start(*command)
    marks = tmp_path / "start.seed0" / "checkpoints"
    while not list(marks.glob("step_*/complete.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    second = warm.start(*command)
    time.sleep(3)
    first.send_signal(number)
    first.communicate(timeout=300)
    assert first.returncode == (143 if number == signal.SIGTERM else -number)
    said = second.communicate(timeout=600)[1]
    assert second.returncode == 0, said
    done = warm.run(*command, "--list")
    assert done.returncode == 0, done.stderr
    assert len(re.findall("done|of other code", done.stdout)) == 4, done.stdout
    for folder in tmp_path.glob("*.seed?"):
        steps = [row["step"] for row in tiny.rows(folder) if "split" not in row]
        assert steps == list(range(15, 301, 15))
