"""What a long preparation says of itself."""

import io

from rich import console

from vit_tf.runtime import long_task


def _console(**options) -> tuple[io.StringIO, console.Console]:
    text = io.StringIO()
    return text, console.Console(file=text, width=100, **options)


def test_a_log_gets_a_line_when_the_last_is_old_enough(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(long_task.time, "monotonic", lambda: now[0])
    text, shown = _console()
    with long_task.watch("Writing images", 14_000, done=2000, shown=shown) as advance:
        advance(500)
        assert text.getvalue() == ""
        now[0] += 100
        advance(500)
        advance(1)
        now[0] += 100
        advance(999)
    assert text.getvalue().splitlines() == [
        "Writing images: 3,000 of 14,000, 10/s, 0:18:20 left",
        "Writing images: 4,000 of 14,000, 10/s, 0:16:40 left",
    ]


def test_a_terminal_gets_a_bar():
    text, shown = _console(force_terminal=True)
    with long_task.watch("Writing images", 10, done=3, shown=shown) as advance:
        advance(4)
    assert "Writing images" in text.getvalue() and "7/10" in text.getvalue()
