"""A measured figure, its target, and where both are written."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: median over the repetitions.
        unit: of the value; "" for a ratio.
        spread: distance of the quartiles over the repetitions; None for a single measurement.
        at_most: target from above.
        at_least: target from below; a figure with neither is there to be read beside the others.
    """

    name: str
    value: float
    unit: str = ""
    spread: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g} {self.unit}".rstrip()
        return "" if self.at_least is None else f">= {self.at_least:g} {self.unit}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Fields that say something, and whether the target is met."""
        rounded = {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in asdict(self).items()}
        kept = {name: x for name, x in rounded.items() if x is not None and x != ""}
        return kept | ({} if self.ok is None else {"ok": self.ok})


def show(figures: Sequence[Figure]) -> None:
    """Print a table."""
    table = Table("figure", "measured", "spread", "target", "ok")
    for figure in figures:
        spread = "" if figure.spread is None else f"{figure.spread:.2g}"
        ok = {True: "yes", False: "no", None: ""}[figure.ok]
        table.add_row(figure.name, f"{figure.value:.4g} {figure.unit}".rstrip(), spread, figure.target, ok)
    Console(width=120).print(table)


def save(path: Path, figures: Mapping[str, Sequence[Figure]], **about: Any) -> None:
    """Write figures by benchmark, with the machine and the date."""
    results = {name: [figure.to_json() for figure in group] for name, group in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "date": str(date.today()), **about, **results}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    described: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
