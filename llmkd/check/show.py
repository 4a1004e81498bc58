"""What a check found, for people."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from llmkd.check.facts import Fact, StageFacts, shown_bytes
from llmkd.check.report import Report

SIGNS = {"exact": "", "estimate": "~", "at most": "<=", "at least": ">="}
COLOURS = {"fits": "green", "tight": "yellow", "does not fit": "red"}
LARGEST_PARTS = 4


def facts_table(report: Report) -> Table:
    """A group of rows per stage: what, how much, and how it is known."""
    table = Table("stage", "", box=SIMPLE, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("how it is known", overflow="fold")
    for name, found in report.stages.items():
        for number, (label, fact) in enumerate(found.facts.items()):
            stage = (name, f"({found.kind})")[number] if number < 2 else ""
            table.add_row(Text(stage), Text(label), _value(label, fact, found), Text(_how(fact)))
        table.add_section()
    return table


def machine_line(report: Report) -> str:
    """What the estimates were held against."""
    machine, (folder, free) = report.machine, report.disk
    pools = [*machine.accelerators, *([machine.system] if machine.system else [])]
    memory = [f"{pool.name} {shown_bytes(pool.free)} free" for pool in pools]
    if not machine.accelerators:
        memory.append(f"no accelerator ({machine.accelerators_known})")
    disk = "disk not known" if free is None else f"disk {shown_bytes(free)} free at {folder}"
    return f"this machine: {', '.join([*memory, disk])}"


def tried_table(stages: Sequence[Any]) -> Table:
    """What each stage gave on one batch, before training; as `llmkd.check.deep` found it."""
    table = Table("stage", "one batch", "loss", "gradient norm", box=SIMPLE, pad_edge=False)
    for tried in stages:
        needs = f" (with stand-ins for {', '.join(tried.stand_ins)})" if tried.stand_ins else ""
        table.add_row(Text(tried.name), Text(f"{tried.kind} works{needs}"))
        if tried.batch is not None:
            for row in _rows_of_batch(tried.batch):
                table.add_row("", *map(Text, row))
        table.add_section()
    return table


def _rows_of_batch(batch: Any) -> Iterator[tuple[str, str, str]]:
    for name, value in batch.losses.items():
        norm = batch.grad_norms.get(name.replace("loss/", "grad_norm/"))
        yield name.removeprefix("loss/"), f"{value:.4g}", "" if norm is None else f"{norm:.4g}"
    yield "all", f"{batch.loss:.4g}", f"{batch.grad_norm:.4g}"
    figures = f"{batch.num_tokens:,} tokens, {batch.seconds:.1f} s"
    yield f"{figures}, {batch.peak_memory_gib:.2f} GiB at most", "", ""


def _value(label: str, fact: Fact, found: StageFacts) -> Text:
    text = Text(shown(fact))
    if label == "memory":
        text.append(f", {found.verdict}", style=COLOURS.get(found.verdict, ""))
    return text


def shown(fact: Fact) -> str:
    """A number as one would read it: `~1,234`, `<=1.5 GiB`, `12 %`."""
    if fact.value is None:
        return "not known"
    sign = SIGNS[fact.exactness]
    if fact.unit == "bytes":
        return f"{sign}{shown_bytes(fact.value)}"
    if fact.unit == "share":
        return f"{sign}{100 * fact.value:.3g} %"
    return f"{sign}{fact.value:,}"


def _how(fact: Fact) -> str:
    largest = sorted(fact.parts.items(), key=lambda part: -part[1])[:LARGEST_PARTS]
    parts = ", ".join(f"{name} {shown_bytes(size)}" for name, size in largest)
    return "; ".join(text for text in (parts, fact.how) if text)
