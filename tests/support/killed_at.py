"""Trains the tiny run and kills itself at its n-th touch of the disk.

python -m tests.support.killed_at N FLAGS OF tools.train ...
"""

import os
import signal
import sys


def main() -> None:
    left = int(sys.argv.pop(1))
    import tensorflow as tf

    def counting(function):
        def touch(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = function(*arguments, **options)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return touch

    # Rows and files go through these; a checkpoint's tensors through write.
    tf.io.gfile.rename = counting(tf.io.gfile.rename)
    tf.io.gfile.rmtree = counting(tf.io.gfile.rmtree)
    tf.io.gfile.GFile.write = counting(tf.io.gfile.GFile.write)
    tf.train.Checkpoint.write = counting(tf.train.Checkpoint.write)
    from tools import command, train

    command.run(train.main)


if __name__ == "__main__":
    main()
