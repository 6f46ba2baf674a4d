"""What scale `small` replaces in the studies on CIFAR-10: data, length and sizes.

Models learn six kinds of CIFAR-10 (30,000 images of airplanes, automobiles, birds,
cats, deer and dogs) in 300 to 1,500 steps, and are then asked about the four others
(frogs, horses, ships and trucks), which stand for the paper's transfer to ImageNet.
Both are folders of images, train/CLASS/... and test/CLASS/...; docs/experiments.md says
how they are made of CIFAR-10's:

    python -m tools.prepare_data --folder=known --name=cifar10_known
    python -m tools.prepare_data --folder=new --name=cifar10_new

Without these folders, data sets that TFDS fetches do as well, as runs of one's own:

    --config.data.name=cifar100 --config.evals.few_shot.datasets=cifar10 --folder=PATH
"""

from vit_tf import config
from vit_tf.studies import experiment_spec

KNOWN, NEW = "cifar10_known", "cifar10_new"
STEPS = 300  # of 128 images: minutes on one core
SHOTS = (5, 25, 100)  # images of each new kind
FEW_SHOT = f"{NEW}/test/100shot"
FIVE_SHOT = f"{NEW}/test/5shot"  # nearest to the paper's measure
FIVE_SHOT_COLUMN = {FIVE_SHOT: "four new kinds, linear 5-shot [%]"}
IMAGENET = "imagenet2012/validation/5shot"  # what that stands for
COLUMNS = {
    FEW_SHOT: "four new kinds, linear 100-shot [%]",
    "test/accuracy": "six known kinds [%]",
    IMAGENET: "ImageNet, linear 5-shot [%]",
}
FINETUNED_ON = 100  # images of each new kind


def model(
    variant: str = "ViT-Ti/8",
    *,
    depth: int = 4,
    width: int = 96,
    mlp_dim: int | None = None,
    head_width: int = 32,
) -> config.Model:
    """Makes a Transformer for images of 32 pixels; its hidden layer twice its width."""
    return config.Model(
        variant=variant,
        depth=depth,
        width=width,
        mlp_dim=mlp_dim or 2 * width,
        num_heads=width // head_width,
    )


def pretrain(
    cfg: config.Config, scale: experiment_spec.Scale, *, steps: int = STEPS
) -> config.Config:
    """Scales the pre-training `cfg`: its model and what it compares stay.

    Args:
        cfg: with a model of a small size; rule, schedule and weight decay stay too.
        scale: `small`, or `smoke` for two steps.
        steps: at scale `small`.
    """
    small = scale == experiment_spec.Scale.SMALL
    cfg.data = config.Data(name=KNOWN, image_size=32, batch_size=128, min_crop_area=0.3)
    # Soft-max: with six classes the paper's sigmoid loss has little to say.
    cfg.objective = config.Objective()
    cfg.optim.warmup_steps = 50 if small else 1
    cfg.optim.clip_norm = 1.0
    cfg.train = _train(small, steps)
    cfg.evals = config.Evals(splits=("test",))
    if small:
        cfg.evals.few_shot = config.FewShot(datasets=(NEW,), shots=SHOTS)
    return cfg


def finetune(cfg: config.Config, scale: experiment_spec.Scale) -> config.Config:
    """Scales the fine-tuning `cfg`: a few images of the four new kinds."""
    small = scale == experiment_spec.Scale.SMALL
    cfg.data = config.Data(
        name=NEW,
        subset=config.Subset(amount=FINETUNED_ON, unit=config.Keep.SHOTS),
        image_size=32,
        batch_size=64,
        min_crop_area=0.3,
    )
    cfg.optim.warmup_steps = 20 if small else 1
    cfg.train = _train(small, 200)
    cfg.evals = config.Evals(splits=("test",))
    return cfg


def _train(small: bool, steps: int) -> config.Train:
    return config.Train(
        length=steps if small else 2,
        log_every_steps=10 if small else 1,
        checkpoint_every_steps=200 if small else 1,
        keep_checkpoints=1,
    )


def seeds(small: int, paper: int = 0) -> dict[experiment_spec.Scale, int]:
    """Says how often a cell is run at each scale; 0: not at all."""
    return {
        experiment_spec.Scale.SMOKE: int(small > 0),
        experiment_spec.Scale.SMALL: small,
        experiment_spec.Scale.PAPER: paper,
    }
