"""What many runs cost together on a device: sums, days, bytes, and how they follow."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

from vit_tf import config, errors
from vit_tf.costs import accelerators, budget

_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Item:
    """Runs that differ by their seed alone: a cell at its scale, or one config.

    Attributes:
        name: the cell's, or what --config says.
        runs: how many there are of it.
        config: of each, but for the seed.
        start_given: whether it starts from weights that the user names.
        shared: the other experiment whose runs these are, if they are.
        recipe: what the config follows; '' of a config that is no experiment's.
    """

    name: str
    runs: int
    config: config.Config
    start_given: bool = False
    shared: str | None = None
    recipe: str = ""


class Totals(TypedDict):
    """Sums over all runs of a plan.

    Attributes:
        read_bytes: None where those of one data set are not known.
    """

    runs: int
    steps: int
    exaflops: float
    days: float
    tpu_v3_core_days: float
    kept_bytes: float
    read_bytes: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Items with their budgets, on a device of whose peak training uses a share.

    Attributes:
        items: what is to be run.
        budgets: of one run of each item, by its name.
        device: on which all runs are done, one after the other.
        utilisation: the share of the device's peak, in (0, 1].
        assumed: whether the share is the paper's middle one, as nobody gave one.
    """

    items: Sequence[Item]
    budgets: dict[str, budget.Budget]
    device: accelerators.Device
    utilisation: float
    assumed: bool

    def days(self, item: Item) -> float:
        """Returns the days of one run."""
        return self.budgets[item.name].days(self.device, self.utilisation)

    def totals(self) -> Totals:
        """Returns sums over all runs."""
        pairs = [(item.runs, self.budgets[item.name]) for item in self.items]
        read = [n * b.read_bytes for n, b in pairs if b.read_bytes is not None]
        share = self.utilisation
        return {
            "runs": sum(n for n, _ in pairs),
            "steps": sum(n * b.steps for n, b in pairs),
            "exaflops": sum(n * b.exaflops for n, b in pairs),
            "days": sum(n * b.days(self.device, share) for n, b in pairs),
            "tpu_v3_core_days": sum(n * b.core_days(share) for n, b in pairs),
            "kept_bytes": sum(n * b.kept_bytes for n, b in pairs),
            "read_bytes": sum(read) if len(read) == len(pairs) else None,
        }

    def as_json(self) -> dict[str, Any]:
        """Returns all of it for `json.dumps`."""
        return {
            "device": self.device.name,
            "peak_tflops": self.device.tflops,
            "utilisation": self.utilisation,
            "runs": [
                {
                    "name": item.name,
                    "runs": item.runs,
                    "variant": item.config.model.variant,
                    "recipe": item.recipe,
                    **dataclasses.asdict(self.budgets[item.name]),
                    "days": self.days(item),
                    "tpu_v3_core_days": self.budgets[item.name].core_days(
                        self.utilisation
                    ),
                }
                for item in self.items
            ],
            "total": self.totals(),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Returns a table: a heading, a row for a run of each item, and the sum."""
        rows = [
            ("run", "runs", "model", "data set", "steps", "exaFLOPs", "days")
            + ("checkpoint GB",)
        ]
        for item in self.items:
            cost = self.budgets[item.name]
            rows.append(
                (item.name, f"{item.runs}", item.config.model.variant, cost.dataset)
                + (f"{cost.steps:,}", short(cost.exaflops), short(self.days(item)))
                + (short(cost.checkpoint_bytes / _GB),)
            )
        total = self.totals()
        rows.append(
            ("all", f"{total['runs']}", "", "", f"{total['steps']:,}")
            + (short(total["exaflops"]), short(total["days"]), "")
        )
        return rows

    def explanation(self) -> list[str]:
        """Returns the totals, and in a line each how they were obtained."""
        total, device = self.totals(), self.device
        return [
            (
                f"{short(total['exaflops'])} exaFLOPs, {short(total['days'])} days on "
                f"{device.name}, one run after the other; "
                f"{short(total['tpu_v3_core_days'])} TPUv3-core-days."
            ),
            f"  Examples of an epoch: {self._examples()}.",
            (
                "  exaFLOPs: 6 x multiply-accumulates of a forward pass x images seen, "
                "as Table 6 counts; evaluations are not in it."
            ),
            (
                f"  Days: at {self.utilisation:.3f} of {device.chips} x "
                f"{device.chip_tflops:g} TFLOP/s, {self._why()}."
            ),
            "  Core-days: at the same share of 61.5 TFLOP/s, a TPU v3 core.",
            (
                f"Checkpoints: {volume(total['kept_bytes'])} when all runs are done: "
                "weights, moments and average of those that stay, and the final weights."
            ),
            f"Data: {self._reading()}.",
        ]

    def sharing(self) -> list[str]:
        """Returns a line for each other experiment that may have done runs already."""
        by_experiment: dict[str, list[Item]] = {}
        for item in self.items:
            if item.shared:
                by_experiment.setdefault(item.shared, []).append(item)
        return [
            f"Shared: {sum(item.runs for item in items)} of these runs, "
            f"{short(sum(i.runs * self.budgets[i.name].exaflops for i in items))} "
            f"exaFLOPs, are those of {other}: what is done there is not done again."
            for other, items in by_experiment.items()
        ]

    def recipes(self) -> list[str]:
        """Returns a line for each recipe, with the runs that follow it."""
        by_recipe: dict[str, list[str]] = {}
        for item in self.items:
            if item.recipe:
                by_recipe.setdefault(item.recipe, []).append(item.name)
        lines = []
        for recipe, names in by_recipe.items():
            more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
            lines.append(f"  {', '.join(names[:3])}{more}: {recipe}")
        return [*(["Recipes:"] if lines else []), *lines]

    def memory(self) -> tuple[str, Item]:
        """Returns that memory was not checked, and the item with the largest batch."""
        largest = max(self.items, key=lambda item: item.config.data.batch_size)
        batch = largest.config.data.batch_size
        shares = largest.config.train.accumulation * self.device.replicas
        replicas = self.device.replicas
        each = f"each of {replicas} replicas" if replicas > 1 else "the device"
        line = (
            f"Memory: NOT checked. A batch of {batch:,} is {batch / shares:g} images for "
            f"{each} at a time"
        )
        if batch % shares:
            line += ", NOT a whole number: training refuses that"
        return line, largest

    def _examples(self) -> str:
        """Returns the examples of each set, with who says so."""
        sources: dict[str, dict[str, None]] = {}
        for b in self.budgets.values():
            sources.setdefault(b.source, {})[f"{b.dataset} {b.examples:,}"] = None
        return "; ".join(f"{', '.join(sets)} ({who})" for who, sets in sources.items())

    def _why(self) -> str:
        """Returns where the share of the peak comes from, and what it leaves out."""
        reached = ", ".join(f"{v:.3f} {k}" for k, v in budget.PAPER_UTILISATION.items())
        why = (
            f"the middle of what the paper reached: {reached}"
            if self.assumed
            else f"as given (the paper's: {reached})"
        )
        slow = [
            item
            for item in self.items
            if item.config.train.precision == config.Precision.FLOAT32
        ]
        if slow:
            of = f"{len(slow)} of {len(self.items)} in float32"
            why += f"; {of}, which GPUs and CPUs do more slowly"
        return f"{why}; the peak: {self.device.source}"

    def _reading(self) -> str:
        """Returns what all runs together read from disk, as far as it is known."""
        pairs = [(item.runs, self.budgets[item.name]) for item in self.items]
        known = sum(n * b.read_bytes for n, b in pairs if b.read_bytes is not None)
        missing = sorted({b.dataset for _, b in pairs if b.read_bytes is None})
        most = "at least " * bool(missing)
        parts = [f"{most}{volume(known)} read by all runs together"] if known else []
        if missing:
            listed = ", ".join(missing[:4]) + ", ..." * (len(missing) > 4)
            parts.append(f"the size of {listed} is not known until it is prepared")
        return "; ".join(parts)


def make(
    items: Sequence[Item],
    device: accelerators.Device,
    *,
    utilisation: float | None = None,
    data_dir: str | None = None,
    num_examples: int | None = None,
    num_classes: int | None = None,
) -> Plan:
    """Plans runs on a device; no array is made and no image is read.

    Args:
        items: what is to be run.
        device: see `accelerators.find`.
        utilisation: share of its peak, in (0, 1]; None: what the paper reached.
        data_dir: where prepared data sets lie.
        num_examples: of training data that are not known here.
        num_classes: the same.

    Raises:
        errors.UserError: a share that is none, and what `budget.estimate` refuses.
    """
    if utilisation is not None and not 0 < utilisation <= 1:
        raise errors.UserError(f"utilisation={utilisation}: need a share up to 1")
    budgets = {}
    for item in items:
        try:
            budgets[item.name] = budget.estimate(
                item.config,
                data_dir=data_dir,
                num_examples=num_examples,
                num_classes=num_classes,
            )
        except errors.UserError as refusal:
            raise errors.UserError(f"{item.name}: {refusal}") from None
    assumed = utilisation is None
    share = budget.UTILISATION if assumed else utilisation
    return Plan(items, budgets, device, share, assumed)


def short(number: float) -> str:
    """Returns three digits, without an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 1e-3 else f"{number:.1g}"


def volume(number: float) -> str:
    """Returns bytes in the unit that reads best."""
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{short(number / size)} {name}"
    return f"{short(number / 1e6)} MB"
