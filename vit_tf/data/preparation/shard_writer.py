"""Writes a split's TFRecord files with several processes, and goes on when cut off.

Which records a shard holds is settled before anything is written, so the same shard
has the same bytes whoever writes it and whenever. A shard takes its name only when
it is whole, then a note beside it says what it holds; what has both is finished.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from vit_tf.data.preparation import process_pool
from vit_tf.runtime import filesystem


@dataclasses.dataclass(frozen=True)
class Bad:
    """Something that was to be a record and cannot be one."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """What a finished shard holds.

    Attributes:
        shard: its number.
        num_examples: records in it.
        num_bytes: of the records, without the framing of the file.
        file_bytes: of the file.
        bad: what is not in it and why.
    """

    shard: int
    num_examples: int
    num_bytes: int
    file_bytes: int
    bad: tuple[Bad, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to write, and where.

    Attributes:
        directory: for the shards, and nothing else until all are finished.
        notes: directory for the notes.
        name: what the files' names begin with: 'DATASET-SPLIT'.
        num_shards: how many.
        records: gives for the number of a shard its serialized records in order,
            with a `Bad` in the place of each that cannot be made. Picklable.
        keep_bad: whether a shard that misses records counts as finished.
    """

    directory: pathlib.Path
    notes: pathlib.Path
    name: str
    num_shards: int
    records: Callable[[int], Iterable[bytes | Bad]]
    keep_bad: bool

    def path(self, shard: int) -> pathlib.Path:
        """Names the file as TFDS does."""
        return self.directory / (
            f"{self.name}.tfrecord-{shard:05d}-of-{self.num_shards:05d}"
        )

    def note_path(self, shard: int) -> pathlib.Path:
        return self.notes / f"shard-{shard:05d}.json"


def finished(plan: Plan) -> dict[int, Note]:
    """Reads the notes of the shards that need not be written again, by number."""
    notes = {}
    for shard in range(plan.num_shards):
        note = _read_note(plan, shard)
        if note is not None and (plan.keep_bad or not note.bad):
            notes[shard] = note
    return notes


def write(plan: Plan, num_processes: int) -> Iterator[Note]:
    """Writes the shards that are not finished; gives their notes as they come.

    With `keep_bad` unset a shard that misses records is looked through to its end
    for the report and left unfinished.

    Raises:
        errors.UserError: no space, no permission, a worker process was killed.
    """
    done = finished(plan)
    with filesystem.refusing(str(plan.directory)):
        plan.directory.mkdir(parents=True, exist_ok=True)
        whole = {plan.path(shard) for shard in done}
        for path in plan.directory.iterdir():
            if path not in whole:
                path.unlink()  # begun by a process that was killed
    todo = (shard for shard in range(plan.num_shards) if shard not in done)
    yield from process_pool.each(_Writer(plan), todo, num_processes)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes one shard; an object because workers get it sent."""

    plan: Plan

    def __call__(self, shard: int) -> Note:
        path = self.plan.path(shard)
        # Two processes never write one file, not even after a kill and a restart.
        unfinished = path.with_name(f"{path.name}.unfinished.{os.getpid()}")
        with filesystem.refusing(str(unfinished)):
            note = self._write(shard, unfinished)
            if note.bad and not self.plan.keep_bad:
                unfinished.unlink()
                return note
            _to_disk(unfinished)
            unfinished.rename(path)
        text = json.dumps(dataclasses.asdict(note))
        filesystem.write_whole(str(self.plan.note_path(shard)), text)
        return note

    def _write(self, shard: int, path: pathlib.Path) -> Note:
        num_examples, num_bytes, bad = 0, 0, []
        with tf.io.TFRecordWriter(str(path)) as file:
            for record in self.plan.records(shard):
                process_pool.check_stop()
                if isinstance(record, Bad):
                    bad.append(record)
                    continue
                file.write(record)
                num_examples += 1
                num_bytes += len(record)
        return Note(
            shard=shard,
            num_examples=num_examples,
            num_bytes=num_bytes,
            file_bytes=path.stat().st_size,
            bad=tuple(bad),
        )


def _read_note(plan: Plan, shard: int) -> Note | None:
    """Reads a shard's note; None unless the shard is there in full length."""
    note_path, path = plan.note_path(shard), plan.path(shard)
    if not note_path.exists() or not path.exists():
        return None
    fields = json.loads(note_path.read_text())
    fields["bad"] = tuple(Bad(**one) for one in fields["bad"])
    note = Note(**fields)
    return note if path.stat().st_size == note.file_bytes else None


def _to_disk(path: pathlib.Path) -> None:
    """Flushes a file to the disk: a note must not outlive its shard without power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
