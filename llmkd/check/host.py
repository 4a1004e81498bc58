"""The main memory that loading takes. Formulas, not measurements.

Every process of a machine loads student and teachers whole, before an engine takes the student apart and
the teacher goes to its place.
"""

from collections.abc import Sequence

from llmkd.check.facts import Fact, StageFacts, known, shown_bytes, value_of
from llmkd.check.machine import Machine
from llmkd.check.memory import RUNTIME_BYTES, verdict
from llmkd.check.models import Model
from llmkd.check.spread import GIVEN, Spread
from llmkd.check.teachers import Beside, loaded_bytes


def look_at_host(
    found: StageFacts, student: Model, teachers: Sequence[Beside], spread: Spread, machine: Machine
) -> None:
    """Adds `host memory`, and warns where this machine has less.

    Args:
        found: Of a training stage that several processes do.
        student: In its own type: an engine's master weights come later.
        teachers: All of them; quantised ones are loaded as such.
        spread: On all machines together.
        machine: Each is taken to have as many accelerators as this one.
    """
    here = processes_here(spread, machine)
    found.facts["host memory"] = known(lambda: _needed(student, teachers, here))
    # Devices that are not here have another main memory behind them.
    memory = None if machine.accelerators_known == GIVEN else machine.system
    if memory is None or verdict(found.facts["host memory"], memory) != "does not fit":
        return
    needed = found.facts["host memory"].value
    is_wide = any(each.model.bytes_per_parameter > 2 for each in teachers)
    found.warnings.append(
        f"host memory: {here} processes load their models whole, {shown_bytes(needed)} together "
        f"(estimate), and {memory.name} has {shown_bytes(memory.free)} free; "
        f"{'write teacher.dtype: bfloat16, or ' * is_wide}start fewer processes on each machine"
    )


def processes_here(spread: Spread, machine: Machine) -> int:
    """How many of the processes run on one machine: one for each accelerator, on a CPU all."""
    num_accelerators = len(machine.accelerators) if machine.accelerators_known != GIVEN else 0
    return min(spread.num_processes, num_accelerators or spread.num_processes)


def _needed(student: Model, teachers: Sequence[Beside], here: int) -> Fact:
    parts = {
        "student": here * value_of(student.parameters) * student.bytes_per_parameter,
        "teacher": here * sum(loaded_bytes(each) for each in teachers),
        "runtime": here * RUNTIME_BYTES,
    }
    how = f"by {here} processes on one machine, which load their models whole"
    return Fact(
        sum(parts.values()), "estimate", how, "bytes", {k: v for k, v in parts.items() if v}
    )
