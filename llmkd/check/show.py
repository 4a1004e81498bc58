"""What a check found, for people."""

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from llmkd.check.facts import Fact, StageFacts
from llmkd.check.report import Report
from llmkd.check.stages import shown_bytes

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
