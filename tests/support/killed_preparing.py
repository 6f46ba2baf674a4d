"""Prepares ImageNet-21k and ends at the n-th touch of one kind, as a power cut might.

python -m tests.support.killed_preparing WHAT N SOURCE DATA_DIR PROCESSES
"""

import os
import signal
import sys

from vit_tf.data.builders import imagenet21k
from vit_tf.data.preparation import shard_writer, synsets


def main() -> None:
    what, number, source, root, processes = sys.argv[1:]
    left = int(number)

    def die_at(function):
        def counted(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted

    if what == "listing":
        synsets.COMMIT_SECONDS = 0
        synsets.Index.add = die_at(synsets.Index.add)
    elif what == "record":
        imagenet21k.Records.encode_record = die_at(imagenet21k.Records.encode_record)
    elif what == "note":
        shard_writer.filesystem.write_whole = die_at(
            shard_writer.filesystem.write_whole
        )
    elif what == "finish":
        imagenet21k.shutil.rmtree = die_at(imagenet21k.shutil.rmtree)
    elif what == "result":
        write = shard_writer.write

        def dying(*arguments):
            yield from map(die_at(lambda note: note), write(*arguments))

        shard_writer.write = dying
    imagenet21k.prepare(
        imagenet21k.Request(
            source=source, partial=True, num_shards=4, num_processes=int(processes)
        ),
        root,
    )


if __name__ == "__main__":
    main()
