"""What long work shows of itself: lines in a log, a bar in a terminal."""

import io

from rich import console

from vit_tf.runtime import progress


def _console(**options) -> tuple[io.StringIO, console.Console]:
    text = io.StringIO()
    return text, console.Console(file=text, width=100, **options)


def _clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_when_the_last_is_old_enough(monkeypatch):
    now = _clock(monkeypatch)
    text, shown = _console()
    with progress.Progress("Writing", total=14_000, done=2000, shown=shown) as display:
        display.advance(500)
        now[0] += 9
        display.advance(90)
        assert text.getvalue() == ""
        now[0] += 91
        display.advance(910)
        display.advance(1)
        now[0] += 100
        display.advance(999)
    assert text.getvalue().splitlines() == [
        "Writing: image 3,500/14,000  10 images/s  17:30 left",
        "Writing: image 4,500/14,000  10 images/s  15:50 left",
    ]


def test_after_ten_minutes_lines_come_once_a_minute(monkeypatch):
    now = _clock(monkeypatch)
    text, shown = _console()
    with progress.Progress("Writing", total=10**6, shown=shown) as display:
        for _ in range(1200):
            now[0] += 1
            display.advance(1)
    assert 60 + 9 <= len(text.getvalue().splitlines()) <= 60 + 11


def test_the_last_step_is_always_shown_and_the_first_not_measured(capsys):
    with progress.Progress("a run", total=3, unit="step") as display:
        for step in (1, 2, 3):
            display.update(step, loss=1 / step, rate=12345.6)
        display.say("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("a run: step 3/3  loss 0.3333  12,346 images/s  0:00")
    assert lines[1:] == ["a run: done"]


def test_a_terminal_gets_a_bar():
    text, shown = _console(force_terminal=True)
    with progress.Progress("Writing images", total=10, done=3, shown=shown) as display:
        display.advance(4)
    assert "Writing images" in text.getvalue() and "7/10" in text.getvalue()


def test_silence_is_silent(capsys):
    with progress.Progress("a run", total=1, silent=True) as display:
        display.update(1, rate=1.0)
        display.say("done")
    assert capsys.readouterr() == ("", "")
