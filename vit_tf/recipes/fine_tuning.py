"""Candidate runs of transfer to a data set, by protocol: Table 4, BiT, AugReg.

No TensorFlow import. The candidates of a protocol are trained on a part of the training
split and compared on the rest; the best of them is then trained on all of it.
"""

import dataclasses
import enum
from collections.abc import Iterable

from vit_tf import config, config_values, errors
from vit_tf.recipes import paper

# AugReg's grid (arXiv 2106.10270, table 4): rates, and (steps, warm-up).
_AUGREG_RATES = (0.001, 0.003, 0.01)
_AUGREG_IMAGENET = ((0.01, 0.03), ((20_000, 500),))
_AUGREG_SMALL = ((500, 100), (2500, 200))
_AUGREG_LARGE = ((2500, 200), (10_000, 500))

# BiT-HyperRule's sizes of data sets (arXiv 1912.11370, section 3.3): below the first
# 500 steps, below the second 10,000, else 20,000.
_SMALL, _MEDIUM = 20_000, 500_000
_MIXUP = 0.1  # of all but the small ones


class Protocol(enum.StrEnum):
    """The published procedure of a fine-tuning."""

    PAPER = "paper"  # Table 4's sweep; ResNets also try the rule of BiT
    TABLE_2 = "table2"  # the same, on ImageNet at 512 or 518 pixels with an average
    HYPERRULE = "hyperrule"  # BiT-HyperRule: one candidate, by size of data and images
    AUGREG = "augreg"  # rates and lengths of "How to train your ViT?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Facts of a data set that the protocols depend on.

    Attributes:
        name: as in config.Data.
        examples: number of training examples.
        development: splits to train and to choose on.
        final: splits to train and to report on.
        small: whether its images have fewer pixels than 96 x 96.
        flip: whether mirroring leaves the labels right.
        crop: whether a random crop does.
        multi_label: whether an image may have several labels.
    """

    name: str
    examples: int
    development: tuple[str, str]
    final: tuple[str, str]
    small: bool = False
    flip: bool = True
    crop: bool = True
    multi_label: bool = False

    @property
    def vtab(self) -> bool:
        """Returns whether it is a task of VTAB-1k."""
        return self.name.startswith("vtab/")

    @property
    def known(self) -> bool:
        """Returns whether Table 4 names it."""
        return self.vtab or self.name in paper.FINETUNING


def candidates(
    protocol: Protocol,
    model: config.Model,
    target: Target,
    *,
    start_from: str | None,
    image_size: int | None = None,
    trained_size: int | None = None,
) -> dict[str, config.Config]:
    """Returns the runs to choose among, by a name such as 'lr=0.01'.

    Args:
        protocol: the procedure.
        model: the pre-trained model; its head is replaced (section 3.1).
        target: the data set.
        start_from: weights to start from; None: from scratch.
        image_size: None: what the protocol has, or the next that the patches divide.
        trained_size: pixels that the start was trained at. A data set that the paper
            does not know takes at most twice as many, which are four times the tokens:
            384 pixels would cost a model of 32 pixels 144 times the work.

    Returns:
        Configs that train and evaluate on the development splits.

    Raises:
        errors.UserError: a protocol that does not apply to the data set.
    """
    protocol = Protocol(protocol)
    if protocol is Protocol.TABLE_2 and target.name != "imagenet2012":
        raise errors.UserError(
            f"--protocol=table2: differs from paper on imagenet2012 only; use "
            f"--protocol=paper for {target.name}"
        )
    runs = {
        Protocol.PAPER: _paper,
        Protocol.TABLE_2: _table_2,
        Protocol.HYPERRULE: lambda t, m: {"hyperrule": _hyperrule(t)},
        Protocol.AUGREG: _augreg,
    }[protocol](target, model)
    for cfg in runs.values():
        cfg.model = without_head(model)
        cfg.start_from = start_from
        cfg.data.split, choose = target.development
        cfg.evals.splits = (choose,)
        size = cfg.data.image_size
        if trained_size is not None and not target.known:
            size = min(size, 2 * trained_size)
        cfg.data.image_size = image_size or paper.fitting(size, model.variant)
        if not target.flip:
            cfg.data.flip = False
        if not target.crop:
            cfg.data.crop = config.Crop.RESIZE
        if target.multi_label:
            cfg.objective.loss = config.Loss.SIGMOID
        if not target.known:  # a laptop may have to do it
            cfg.train.precision = config.Precision.FLOAT32
            cfg.train.steps_per_loop = 1
    return runs


# Fields that a protocol sets for each of its runs.
RESERVED = ("data.name", "data.split", "evals.splits", "train.seed", "start_from")


def check_changes(names: Iterable[str]) -> None:
    """Refuses overrides of fields that the protocol sets.

    Args:
        names: fields such as 'optim.lr'.
    """
    for name in names:
        if name in RESERVED:
            raise errors.UserError(
                f"--config.{name}: each run of the protocol has its own; use "
                "tools.train for one run with another"
            )


def with_rates(
    named: dict[str, config.Config], rates: Iterable[float]
) -> dict[str, config.Config]:
    """Replaces the learning rates of candidates; keeps their other settings, each once."""
    changed = {}
    for name, candidate in named.items():
        _, _, rest = name.partition(",")
        for rate in rates:
            cfg = _copy(candidate)
            cfg.optim.lr = rate
            changed[f"lr={rate:g}{rest and f',{rest}'}"] = cfg
    return changed


def edge_of_grid(named: dict[str, config.Config], chosen: str) -> str | None:
    """Returns 'lowest' or 'highest' if the chosen learning rate is such an end.

    Beyond it a better rate may lie, which was not tried. None where a rate on either
    side was, or where there is only one.

    Args:
        named: the candidates.
        chosen: the name of one.
    """
    rates = sorted({cfg.optim.lr for cfg in named.values()})
    rate = named[chosen].optim.lr
    if len(rates) < 2 or rate not in (rates[0], rates[-1]):
        return None
    return "lowest" if rate == rates[0] else "highest"


def final(chosen: config.Config, target: Target, *, seed: int) -> config.Config:
    """Returns the chosen run on all training examples, reported on the test split."""
    cfg = _copy(chosen)
    cfg.data.split, report = target.final
    cfg.evals.splits = (report,)
    cfg.train.seed = seed
    return cfg


def _copy(cfg: config.Config) -> config.Config:
    # Through JSON, so that sub-configs are copied too.
    return config_values.from_json(config_values.to_json(cfg))


def vtab_task(
    model: config.Model, task: str, *, start_from: str | None, seed: int = 0
) -> config.Config:
    """Returns the run of `model` on a task of VTAB-1k (`paper.vtab`).

    At 384 pixels, or the next size that its patches divide.
    """
    cfg = paper.vtab("ViT-B/16", task, start_from=start_from)
    cfg.model = without_head(model)
    cfg.data.image_size = paper.fitting(cfg.data.image_size, model.variant)
    cfg.train.seed = seed
    return cfg


def without_head(model: config.Model) -> config.Model:
    """Returns the model with a linear head of zeros, and no dropout (3.2, AugReg 3.5)."""
    return dataclasses.replace(
        model,
        pre_logits=False,
        head_bias=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth=0.0,
    )


def _paper(target: Target, model: config.Model) -> dict[str, config.Config]:
    steps, rates = _table_4(target)
    runs = {f"lr={rate:g}": _table_4_run(target, steps, rate) for rate in rates}
    if "ViT" not in model.variant and not target.vtab:
        runs["hyperrule"] = _hyperrule(target)  # section B.1.1
    return runs


def _table_2(target: Target, model: config.Model) -> dict[str, config.Config]:
    runs = _paper(target, model)
    for cfg in runs.values():
        paper.show_larger(cfg, model.variant)
    return runs


def _table_4(target: Target) -> tuple[int, tuple[float, ...]]:
    """Returns steps and rates; steps of a set that is not in the table by its size."""
    if target.vtab:
        return 2500, (0.01,)
    if target.name in paper.FINETUNING:
        return paper.FINETUNING[target.name]
    return _steps(target), paper.FINETUNING["cifar10"][1]


def _table_4_run(target: Target, steps: int, rate: float) -> config.Config:
    cfg = paper.finetune("ViT-B/16", "cifar10", start_from=None, lr=rate)
    cfg.data.name = target.name
    cfg.train.length = steps
    cfg.optim.warmup_steps = 100 if steps <= 500 else 200 if target.vtab else 500
    if target.small and not target.known:
        _show_small(cfg)
    return cfg


def _hyperrule(target: Target) -> config.Config:
    """Returns BiT-HyperRule's run, which decays at 30, 60 and 90 % (1912.11370, 3.3)."""
    steps = _steps(target)
    cfg = paper.finetune("ViT-B/16", "cifar10", start_from=None, lr=0.003)
    cfg.data.name = target.name
    cfg.data.mixup = 0.0 if target.examples < _SMALL else _MIXUP
    cfg.optim.schedule = config.Schedule.STEPS
    cfg.optim.clip_norm = None
    cfg.optim.warmup_steps = 100 if steps == 500 else 500
    cfg.train.length = steps
    if target.small:
        _show_small(cfg)
    return cfg


def _augreg(target: Target, model: config.Model) -> dict[str, config.Config]:
    del model
    large = target.examples >= _SMALL
    rates, lengths = _AUGREG_RATES, _AUGREG_LARGE if large else _AUGREG_SMALL
    if target.name == "imagenet2012":
        rates, lengths = _AUGREG_IMAGENET
    runs = {}
    for steps, warmup in lengths:
        for rate in rates:
            cfg = _table_4_run(target, steps, rate)
            cfg.optim.warmup_steps = warmup
            cfg.data.crop = config.Crop.INCEPTION
            # As the authors' fine-tuning (vit_jax/configs/common.py: optim_dtype).
            cfg.optim.moment_dtype = config.GradientDtype.BFLOAT16
            runs[f"lr={rate:g},steps={steps}"] = cfg
    return runs


def _steps(target: Target) -> int:
    if target.examples < _SMALL:
        return 500
    return 10_000 if target.examples < _MEDIUM else 20_000


def _show_small(cfg: config.Config) -> None:
    """Shows small images at 128 pixels, random crops of 160 (BiT, section 3.3)."""
    cfg.data.image_size = 128
    cfg.data.crop = config.Crop.RANDOM_160
