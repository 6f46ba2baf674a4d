"""A run's folder survives kills: whole files, rows without torn lines."""

import json

import pytest

from vit_tf import config, record


def test_a_torn_last_row_is_left_out(tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for cut in range(len(text) + 1):
        (tmp_path / "metrics.jsonl").write_text(text[:cut])
        found = record.read_rows(str(tmp_path))
        assert found == rows[: len(found)]
    assert found == rows


def test_rewind_drops_later_rows(tmp_path):
    with record.Run(str(tmp_path), config.Config()) as run:
        for step in (1, 2, 3):
            run.write({"step": step, "loss": 1.0})
        run.write({"step": 3, "split": "test", "name": "accuracy", "value": 1.0})
        run.rewind(2)
        assert [r["step"] for r in record.read_rows(str(tmp_path))] == [1, 2]


def test_the_config_is_there_before_the_first_step(tmp_path):
    cfg = config.Config()
    cfg.optim.lr = 0.25
    with record.Run(str(tmp_path), cfg) as run:
        assert config.from_json((tmp_path / "config.json").read_text()) == cfg
        assert run.result() is None
        run.finish({"steps": 3})
        assert run.result() == {"steps": 3}


def test_another_config_is_refused_with_what_differs(tmp_path):
    with record.Run(str(tmp_path), config.Config()):
        pass
    other = config.Config()
    other.optim.lr, other.train.seed = 0.5, 3
    with pytest.raises(config.Refused) as caught:
        record.Run(str(tmp_path), other)
    assert "optim.lr: 0.001 against 0.5; train.seed: 0 against 3" in str(caught.value)


def test_progress_prints_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(record, "_LINE_SECONDS", 0.0)
    with record.Progress("a run", first=0, total=3) as progress:
        for step in (1, 2, 3):
            progress.update(step, loss=1 / step, rate=12345.6)
        progress.say("done")
    lines = capsys.readouterr().err.splitlines()
    # The first step compiles and would give a foolish time left.
    assert len(lines) == 3
    assert lines[0].startswith("a run: step 2/3  loss 0.5000  12,346 images/s  0:0")
    assert lines[0].endswith("left") and "step 3/3" in lines[1]
    assert lines[2] == "a run: done"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.7, "1:01"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert record.clock(seconds) == text
