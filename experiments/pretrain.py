"""Pre-training as in the paper: a row of Table 3.

The argument names the model and the data set:

    python -m tools.train --config=experiments/pretrain.py:ViT-B/16,imagenet21k \
        --workdir=runs/b16_i21k

Made for TPU pods and hosts of several GPUs; docs/scale.md has the commands.
"""

from vit_tf import config
from vit_tf.recipes import paper


def get_config(argument: str | None = None) -> config.Config:
    """Pre-trains 'MODEL,DATASET' as Table 3."""
    variant, _, dataset = (argument or "ViT-B/16,imagenet21k").partition(",")
    return paper.pretrain(variant, dataset or "imagenet21k")
