"""From image files to rows of the table: batches, several in flight, progress shown.

Rows are written in the order of the files, so that the table does not depend on which
batch comes back first.
"""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent import futures

from vit_tf.runtime import progress
from vit_tf.serving import named_images, predictions, predictions_table

# Encoded images of a batch, and an event that says to stop waiting -> their answers.
Ask = Callable[[Sequence[bytes], threading.Event], list[predictions.Prediction]]


@dataclasses.dataclass
class Count:
    """How many images had their row before, got one, and got one with an error."""

    before: int = 0
    answered: int = 0
    unreadable: int = 0

    def line(self, path: str) -> str:
        """Returns the line that a command ends with."""
        parts = [f"{self.answered + self.unreadable:,} images in {path}"]
        if self.unreadable:
            parts.append(f"{self.unreadable:,} of them unreadable (see column error)")
        if self.before:
            parts.append(f"{self.before:,} had their row before")
        return ", ".join(parts)


def fill(
    table: predictions_table.Table,
    paths: Sequence[str],
    ask: Ask,
    *,
    batch_size: int,
    in_flight: int,
) -> Count:
    """Asks about the images that have no row yet, and writes their rows.

    A file that cannot be read gets a row with the reason. What `ask` raises ends it,
    with the rows before in the file.

    Args:
        table: gets the rows.
        paths: the image files.
        ask: called from several threads.
        batch_size: images of a call.
        in_flight: calls at a time.

    Returns:
        how many images there were.
    """
    todo, before = table.split(paths)
    count = Count(before=before)
    stop = threading.Event()
    starts = range(0, len(todo), batch_size)
    batches = (todo[start : start + batch_size] for start in starts)
    waiting: collections.deque[futures.Future] = collections.deque()
    pool = futures.ThreadPoolExecutor(in_flight, "ask")
    try:
        with progress.Progress(
            "Images", total=before + len(todo), done=before
        ) as display:
            for batch in itertools.islice(batches, in_flight):
                waiting.append(pool.submit(_rows, batch, ask, stop))
            while waiting:
                rows = waiting.popleft().result()
                for batch in itertools.islice(batches, 1):
                    waiting.append(pool.submit(_rows, batch, ask, stop))
                table.write(rows)
                bad = sum(1 for _, answer in rows if answer.error)
                count.unreadable += bad
                count.answered += len(rows) - bad
                display.advance(len(rows))
    finally:
        # Of a call that is still out nobody reads the answer: it is not waited for.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return count


def _rows(
    paths: Sequence[str], ask: Ask, stop: threading.Event
) -> list[tuple[str, predictions.Prediction]]:
    """Returns the rows of a batch, in its order."""
    rows: dict[str, predictions.Prediction] = {}
    encoded = {}
    for path in paths:
        try:
            encoded[path] = named_images.read(path)
        except OSError as error:
            rows[path] = predictions.refuse(f"cannot be read: {error.strerror}")
    if encoded:
        rows |= zip(encoded, ask(list(encoded.values()), stop), strict=True)
    return [(path, rows[path]) for path in paths]
