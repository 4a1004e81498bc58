"""What every benchmark writes beside its numbers: of which code, when, and on what."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"


def circumstances() -> dict[str, Any]:
    """To be asked for before anything is timed, as that is a load too."""
    return {
        "commit": commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "load_average_at_start": load_average(),
    }


def commit() -> str:
    """The code that is measured, and whether it is what was committed."""
    changed = git("status", "--porcelain", "--", "llmkd", "tests/benchmarks/*.py")
    return git("rev-parse", "HEAD") + (" with local changes" if changed else "")


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def hardware() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return {"cpu": name, "cores": os.cpu_count(), "machine": platform.machine()}


def load_average() -> float:
    return round(os.getloadavg()[0], 2)


def save(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
