"""Shards: what is finished stays, what is not is written again."""

import dataclasses

import pytest

from vit_tf.data.preparation import shard_writer


@pytest.fixture
def plan(tmp_path) -> shard_writer.Plan:
    return shard_writer.Plan(
        directory=tmp_path / "shards",
        notes=tmp_path,
        name="a-b",
        num_shards=3,
        records=lambda shard: [bytes([shard]) * 10] * 5,
        keep_bad=False,
    )


def test_a_finished_shard_that_lost_bytes_is_written_again(plan):
    assert [note.shard for note in shard_writer.write(plan, 1)] == [0, 1, 2]
    content = plan.path(1).read_bytes()
    plan.path(1).write_bytes(content[:-1])
    (plan.directory / "stray.unfinished.77").write_bytes(b"half")
    assert [note.shard for note in shard_writer.write(plan, 1)] == [1]
    assert plan.path(1).read_bytes() == content
    assert len(list(plan.directory.iterdir())) == 3
    assert not list(shard_writer.write(plan, 1))


def test_a_note_counts_what_the_shard_holds(plan):
    note, *_ = shard_writer.write(plan, 1)
    assert (note.num_examples, note.num_bytes, note.bad) == (5, 50, ())
    assert note.file_bytes == plan.path(0).stat().st_size == 5 * (10 + 16)


def test_a_shard_with_bad_records_is_finished_only_if_they_may_be_missing(plan):
    bad = shard_writer.Bad("x", "why")
    plan = dataclasses.replace(
        plan, records=lambda shard: [b"good", bad] if shard == 2 else [b"good"]
    )
    for _ in range(2):
        *_, note = shard_writer.write(plan, 1)
        assert note.shard == 2 and note.bad == (bad,)
        assert sorted(shard_writer.finished(plan)) == [0, 1]
    keeping = dataclasses.replace(plan, keep_bad=True)
    assert [note.shard for note in shard_writer.write(keeping, 1)] == [2]
    assert shard_writer.finished(keeping)[2].bad == (bad,)
    assert sorted(shard_writer.finished(plan)) == [0, 1]
