"""The processes, one per host, that train one run together, and their messages.

Hosts take every decision of the loop together: what one of them reads, is asked or
refuses has to be known to all before the next step, or the others wait in it for ever.
Messages travel as sums over replicas, the one collective that every strategy has.
"""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from vit_tf import config, config_values, errors
from vit_tf.runtime import filesystem

# The errors of a step after another process has died.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)

_CHUNK = 1024  # bytes of a message that are sent at a time


class Processes:
    """This process and the others of a run; by default it is alone.

    Args:
        strategy: shared by all of them.
        count: how many processes there are.
        index: which of them this is; the first is the chief, which writes files.
    """

    def __init__(self, strategy=None, *, count: int = 1, index: int = 0):
        self.count, self.index = count, index
        if count > 1:
            self._sum_numbers = _summing(strategy, count, 1)
            self._sum_words = _summing(strategy, count, _CHUNK)

    @property
    def chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.index == 0

    def exchange(self, text: str) -> list[str]:
        """Sends text to all hosts and returns the text of each, by its index.

        All hosts have to call it together.
        """
        if self.count == 1:
            return [text]
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = self._gather(self._sum_numbers, np.array([len(own)]))
        longest = int(lengths.max())
        own = np.pad(own, (0, longest - len(own) + _CHUNK))
        words = [
            self._gather(self._sum_words, own[i : i + _CHUNK])
            for i in range(0, longest, _CHUNK)
        ]
        rows = np.concatenate([np.zeros((self.count, 0)), *words], axis=1)
        rows = rows.astype(np.uint8)
        return [bytes(row[: int(n)]).decode() for row, (n,) in zip(rows, lengths)]

    def _gather(self, summing, own: np.ndarray) -> np.ndarray:
        """Gathers (n,) of every host as (hosts, n), on every host."""
        rows = np.zeros((self.count, len(own)), np.float32)
        rows[self.index] = own
        return summing(tf.constant(rows)).numpy()

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any host; waits for all of them."""
        if self.count == 1:
            return flag
        return bool(self._gather(self._sum_numbers, np.array([flag])).any())

    def wait(self) -> None:
        """Waits until all hosts have called it."""
        self.any(False)

    def check_same(self, cfg: config.Config, workdir: str) -> None:
        """Refuses hosts that train another config or see another folder.

        Raises:
            errors.UserError: on every host, with the number of the one that differs.
        """
        if self.count == 1:
            return
        token = f".hosts_{uuid.uuid4().hex}"
        if self.chief:
            with filesystem.refusing(workdir):
                tf.io.gfile.makedirs(workdir)
                with tf.io.gfile.GFile(os.path.join(workdir, token), "w") as file:
                    file.write("for a moment: do all workers see this folder?")
        texts = self.exchange(json.dumps([config_values.to_json(cfg), token]))
        theirs = [config_values.from_json(json.loads(text)[0]) for text in texts]
        token = json.loads(texts[0])[1]
        seen = self.exchange("" if _exists(os.path.join(workdir, token)) else workdir)
        if self.chief:
            tf.io.gfile.remove(os.path.join(workdir, token))
        for number, other in enumerate(theirs):
            if differing := config_values.differences(theirs[0], other):
                raise errors.UserError(
                    f"worker {number} has another config than worker 0 "
                    f"({'; '.join(differing[:3])}): start all with the same --config"
                )
        blind = [number for number, path in enumerate(seen) if path]
        if blind:
            raise errors.UserError(
                f"--workdir={seen[blind[0]]}: worker {blind[0]} does not see the folder "
                "that worker 0 writes; name one that all hosts share"
            )

    def agree(self, what: str, value: int) -> None:
        """Refuses hosts whose values differ."""
        values = self.exchange(str(value))
        if len(set(values)) > 1:
            raise errors.UserError(
                f"{what}: the workers have {', '.join(values)}; wait until all see the "
                "same files, then start all of them again"
            )

    @contextlib.contextmanager
    def losing_one(self) -> Iterator[None]:
        """Turns the death of another process into one `UserError`."""
        try:
            yield
        except LOST as error:
            if self.count == 1:
                raise
            named = re.search(r"/job:worker/(?:replica:\d+/)?task:(\d+)", str(error))
            others = named is not None and int(named[1]) != self.index
            who = f"worker {named[1]}" if others else "another worker"
            why = re.search(r"aborted by: ([^\n]{1,120})", str(error))
            raise errors.TryAgain(
                f"worker {self.index} of {self.count} stops: {who} died or cannot be "
                f"reached ({why[1] if why else filesystem.reason(error)[:120]}); read its "
                "last lines, then start all workers again to go on from the last checkpoint"
            ) from error

    def is_loss(self, error: Exception) -> bool:
        """Returns whether an error means that another process has died."""
        return self.count > 1 and isinstance(error, LOST)


def _exists(path: str) -> bool:
    # Listing first: file systems over a network keep what they saw before.
    folder, name = os.path.split(path)
    return tf.io.gfile.isdir(folder) and name in tf.io.gfile.listdir(folder)


def _summing(strategy, count: int, width: int):
    """Makes a function: float32 (hosts, width) of every host ->
    their sum, on every host.

    The shape is fixed: TensorFlow crashes where a collective is run with another.
    """
    local = strategy.num_replicas_in_sync // count

    def replica_sum(rows):
        context = tf.distribute.get_replica_context()
        speaks = context.replica_id_in_sync_group % local == 0
        own = tf.where(speaks, rows, tf.zeros_like(rows))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

    def total(rows):
        results = strategy.run(replica_sum, args=(rows,))
        return strategy.experimental_local_results(results)[0]

    spec = tf.TensorSpec([count, width], tf.float32)
    return tf.function(total, input_signature=[spec], autograph=False)
