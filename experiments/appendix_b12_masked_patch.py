"""Does a ViT that learned to guess corrupted patches need fewer labels?

The paper's self-supervised experiment (section 4.6, B.1.2): half of an image's patches
are corrupted and their mean colours guessed, without any label; then the model is
fine-tuned. At scale `paper` ViT-B/16 learns from JFT-300M or ImageNet and reaches
79.9 % on ImageNet, 2 % above the same model without it. The paper has other targets,
corruption of 15 %, shorter training and ImageNet in words only ("slightly worse",
"similar gains").

Scale `paper`: 12 runs, 5,220,000 steps, 2,222 exaFLOPs, 1,045 TPUv3-core-days at 40 %
utilisation. Not counted: 2 runs shared with other experiments, 43.9 exaFLOPs.

Scale `small` asks it of CIFAR-10 on one CPU core: three epochs over all 50,000 training
images without their labels, then fine-tuning on 1 % and 10 % of the labels, beside the
same model from random weights, with the same labels and steps. Linear few-shot
accuracies, of the pre-trained and of an untrained model, take 5, 50 (1 %) and 500
(10 %) labels of a class. FINDINGS has what came out.

The data is a folder with CIFAR-10's images, train/CLASS/... and test/CLASS/...:

    python -m tools.prepare_data --folder=cifar10 --name=cifar10_jpeg
    python -m tools.run_experiment \
        --experiment=experiments/appendix_b12_masked_patch.py
"""

import functools

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"

_DATA = "cifar10_jpeg"
_SHOTS = (5, 50, 500)


def pretrain(
    scale: experiment_spec.Scale,
    *,
    dataset: str = "jft300m",
    target: config.Target = config.Target.MEAN_COLOR,
    corruption: float = 0.5,
    steps: int = 1_000_000,
) -> config.Config:
    """Pre-trains by masked patch prediction (B.1.2); labels are not read."""
    cfg = paper.masked_patch(
        dataset=dataset, target=target, corruption=corruption, steps=steps
    )
    if scale == experiment_spec.Scale.PAPER:
        # JFT's users bring it under a name of their own, with a split to look at.
        cfg.evals.few_shot.datasets = ("imagenet2012",)
        return cfg
    small = scale == experiment_spec.Scale.SMALL
    _shrink(cfg, small=small)
    cfg.data.batch_size = 128
    cfg.optim.lr = 1e-3
    cfg.optim.warmup_steps = 200 if small else 1
    cfg.train.length = 3 if small else 2
    cfg.train.unit = config.Unit.EPOCHS if small else config.Unit.STEPS
    cfg.evals.draw_every_steps = 500 if small else None
    if small:
        cfg.evals.few_shot.datasets, cfg.evals.few_shot.shots = (_DATA,), _SHOTS
    return cfg


def untrained(scale: experiment_spec.Scale) -> config.Config:
    """Makes B.1.2's model with random weights: one step, too small to matter.

    The head begins with zeros, so that step alone decides which colour is told: the
    accuracy is no baseline.
    """
    cfg = pretrain(scale)
    cfg.train.length, cfg.train.unit = 1, config.Unit.STEPS
    cfg.optim.lr, cfg.optim.warmup_steps = 1e-12, 0
    cfg.evals.draw_every_steps = None
    return cfg


def supervised(scale: experiment_spec.Scale) -> config.Config:
    """Trains the paper's 'from scratch': Table 3 on ImageNet's labels."""
    cfg = paper.pretrain("ViT-B/16", "imagenet2012")
    if scale != experiment_spec.Scale.PAPER:
        _shrink(cfg, small=scale == experiment_spec.Scale.SMALL)
        cfg.train.unit, cfg.train.length = config.Unit.STEPS, 2
        cfg.optim.warmup_steps = 1
    return cfg


def finetune(
    scale: experiment_spec.Scale, *, labels: float | None = None
) -> config.Config:
    """Fine-tunes as Table 4 on a share of the labels; None: all of them."""
    cfg = paper.finetune("ViT-B/16", "imagenet2012", start_from=None)
    if scale != experiment_spec.Scale.PAPER:
        small = scale == experiment_spec.Scale.SMALL
        _shrink(cfg, small=small)
        cfg.optim.warmup_steps = 20 if small else 1
        cfg.train.length = 150 if small else 2
    cfg.data.subset.amount = labels
    return cfg


def _shrink(cfg: config.Config, *, small: bool) -> None:
    """Sizes that one core trains in minutes: patches of 4 at 32 pixels.

    Features are the mean of the patches' outputs: that of a class token is in no loss
    of masked patches.
    """
    cfg.model = config.Model(
        variant="ViT-Ti/4",
        depth=4,
        width=96,
        mlp_dim=192,
        num_heads=3,
        pool=config.Pool.GAP,
    )
    cfg.data = config.Data(name=_DATA, image_size=32, batch_size=64, min_crop_area=0.3)
    cfg.optim.clip_norm = 1.0
    cfg.train.precision = config.Precision.FLOAT32
    cfg.train.steps_per_loop = 1
    cfg.train.log_every_steps = 10 if small else 1
    cfg.train.checkpoint_every_steps = 200 if small else 1
    cfg.evals.splits = ("test",)


def _at(smoke: int, small: int, paper: int) -> dict[experiment_spec.Scale, int]:
    """Says how often a cell is run; 0: not at that scale."""
    return dict(zip(experiment_spec.Scale, (smoke, small, paper)))


_LARGE, _SMALL = _at(1, 0, 1), _at(1, 3, 0)

# The paper's variants: name -> what it changes, what it says of the outcome.
_VARIANTS = {
    "shrunk_colors": ({"target": config.Target.SHRUNK_COLORS}, "worked quite well"),
    "pixels": ({"target": config.Target.PIXELS}, "slightly worse"),
    "15_percent": ({"corruption": 0.15}, "slightly worse few-shot"),
    "100k_steps": ({"steps": 100_000}, "diminishing returns after"),
    "imagenet": ({"dataset": "imagenet2012"}, "similar gains"),
}

CELLS = experiment_spec.cells(
    experiment_spec.Cell(
        "pretrain",
        pretrain,
        seeds=_at(1, 1, 1),
        note="no labels; accuracy: colours of corrupted patches, of 512",
    ),
    experiment_spec.Cell(
        "untrained",
        untrained,
        seeds=_at(1, 1, 0),
        note="random weights: the baseline of few-shot and loss; accuracy: of one tiny "
        "step, which decides between equal logits",
    ),
    *(
        experiment_spec.Cell(
            f"{start}_{percent}_percent",
            functools.partial(finetune, labels=percent / 100),
            starts_from="pretrain" if start == "finetune" else None,
            seeds=_SMALL,
            note=f"{percent} % of the labels, drawn anew for each seed",
        )
        for percent in (1, 10)
        for start in ("finetune", "scratch")
    ),
    experiment_spec.Cell(
        "finetune",
        finetune,
        starts_from="pretrain",
        seeds=_LARGE,
        paper={"accuracy": 79.9},
        note="mean colours, 50 % corrupted, JFT-300M, 1M steps; all labels",
    ),
    experiment_spec.Cell(
        "supervised",
        supervised,
        seeds=_LARGE,
        same_as="table5_pretraining_data:ViT-B-16_imagenet2012",
        note="at 224 pixels, before fine-tuning",
    ),
    experiment_spec.Cell(
        "finetune_supervised",
        finetune,
        starts_from="supervised",
        seeds=_LARGE,
        same_as="table5_pretraining_data:ViT-B-16_imagenet2012_imagenet2012",
        paper={"accuracy": 77.91},
        note="the paper's 'from scratch': ImageNet's labels alone",
    ),
    *(
        cell
        for name, (changes, says) in _VARIANTS.items()
        for cell in (
            experiment_spec.Cell(
                f"pretrain_{name}",
                functools.partial(pretrain, **changes),
                seeds=_LARGE,
                note=f"the paper: {says}",
            ),
            experiment_spec.Cell(
                f"finetune_{name}",
                finetune,
                starts_from=f"pretrain_{name}",
                seeds=_LARGE,
                note="all labels",
            ),
        )
    ),
)

TABLE = experiment_spec.Table(
    {
        "accuracy": "accuracy [%]",
        **{f"{_DATA}/test/{k}shot": f"linear {k}-shot [%]" for k in _SHOTS},
        "imagenet2012/validation/5shot": "ImageNet 5-shot [%]",
    },
    scales=tuple(experiment_spec.Scale),
)


FINDINGS = f"""
It helped a little, in points of accuracy: linear few-shot by
{{pretrain minus untrained:{_DATA}/test/5shot}} with 5 labels of a class,
{{pretrain minus untrained:{_DATA}/test/50shot}} with 50 and
{{pretrain minus untrained:{_DATA}/test/500shot}} with 500; fine-tuned by
{{finetune_1_percent minus scratch_1_percent:accuracy}} with 1 % of the labels and by
{{finetune_10_percent minus scratch_10_percent:accuracy}} with 10 %. The paper's gain with
all labels is {{paper finetune minus finetune_supervised:accuracy}}. What this cannot say:
few-shot numbers come from one pre-trained and one untrained model; one pre-training, of
one seed, served all fine-tunings; the learning rate (SGD at 3e-2, 150 steps) is the
fine-tuning's, shared with 'from scratch' and not tuned for it; accuracies on corrupted
patches were measured with the evaluation draws of an earlier commit, and today's
evaluation corrupts other patches.
"""


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'pretrain', 'finetune_1_percent', ..., and a scale."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
