"""`--launch`: a train stage by several processes, through accelerate's launcher. Imports no torch."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from llmkd.children import ChildFailedError, run_child
from llmkd.errors import InputError
from llmkd.exit_statuses import BAD_INPUT, TERMINATED
from llmkd.launch_files import ENGINES, launcher_file

DEEPSPEED_BUCKET = 50_000_000
"""Gradients that DeepSpeed sends at once, unless its user says how many. Its own 5e8 take 1 GB in half precision,
and a student with fewer parameters saves nothing by ZeRO-2 then; DDP sends 6.5e6."""


@dataclass(frozen=True)
class Launch:
    """How many processes train, and by which engine.

    Args:
        file: Of accelerate's launcher.
        num_processes: On all machines together; None takes one for each accelerator, or what a file
            of the user's own says.
        num_machines: Each runs the same command, with a `machine_rank` of its own.
        machine_rank: Which of the machines this is, from 0.
        main_process_ip: Address of machine 0; for several machines.
        main_process_port: A port that is free on machine 0; for several machines.
    """

    file: Path
    num_processes: int | None = None
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str | None = None
    main_process_port: int | None = None

    def command(self, module: str, *arguments: str) -> list[str]:
        """What starts a module on all of this machine's processes, as a child of this one."""
        options = {
            "config_file": self.file,
            "num_processes": self.num_processes,
            "num_machines": self.num_machines,
            "machine_rank": self.machine_rank,
            "main_process_ip": self.main_process_ip,
            # 0: one that is free; of several machines, each has to know it.
            "main_process_port": self.main_process_port or 0,
        }
        written = [
            part
            for name, value in options.items()
            if value is not None
            for part in (f"--{name}", str(value))
        ]
        own = [sys.executable, "-P", "-m", "llmkd.launched", str(os.getpid())]
        return [*own, *written, "--module", module, *arguments]


def launch_of(
    engine: str | None,
    *,
    num_processes: int | None = None,
    num_machines: int = 1,
    machine_rank: int = 0,
    main_process_ip: str | None = None,
    main_process_port: int | None = None,
) -> Launch | None:
    """What `--launch` and the options beside it ask for; None where that is one process.

    Args:
        engine: One of `ENGINES`, or a file that `accelerate config` wrote.
        num_processes: As of `Launch`.
        num_machines: As of `Launch`.
        machine_rank: As of `Launch`.
        main_process_ip: As of `Launch`.
        main_process_port: As of `Launch`.

    Raises:
        InputError: There is no such engine or file, or the numbers do not fit each other.
    """
    if engine is None:
        beside = (num_processes, main_process_ip, main_process_port)
        if (num_machines, machine_rank) != (1, 0) or any(each is not None for each in beside):
            raise InputError(
                "--num-processes, --num-machines, --machine-rank, --main-process-ip, "
                "--main-process-port: of which engine? write --launch "
                f"{' | '.join(ENGINES)}, or --launch FILE"
            )
        return None
    problems: list[str] = []
    if num_processes is not None and num_processes < 1:
        problems.append(f"--num-processes: {num_processes}; write 1 or more")
    elif num_processes is not None and num_processes % max(1, num_machines):
        problems.append(
            f"--num-processes: {num_processes} cannot be spread evenly; write a multiple of "
            f"--num-machines, which is {num_machines}"
        )
    if num_machines < 1:
        problems.append(f"--num-machines: {num_machines}; write 1 or more")
    elif not 0 <= machine_rank < num_machines:
        problems.append(
            f"--machine-rank: {machine_rank} is none of {num_machines}; write 0 to {num_machines - 1}"
        )
    if num_machines > 1 and not (main_process_ip and main_process_port):
        problems.append(
            "--main-process-ip, --main-process-port: machines have to find each other; write the "
            "address of machine 0 and a port that is free there, the same on all"
        )
    if main_process_port is not None and not 0 < main_process_port < 2**16:
        problems.append(f"--main-process-port: {main_process_port}; write 1 to {2**16 - 1}")
    if num_machines > 1 and num_processes is None:
        problems.append(
            "--num-processes: missing; write how many there are on all machines together"
        )
    if problems:
        raise InputError(problems)
    return Launch(
        launcher_file(engine),
        num_processes,
        num_machines,
        machine_rank,
        main_process_ip,
        main_process_port,
    )


def refuse_other_launchers(launch: Launch | None, *, is_launched: bool) -> None:
    """Refuses to wait for processes that nobody starts.

    Raises:
        InputError: Another launcher, or a cluster, says that this is one process of several.
    """
    if is_launched and launch is not None:
        raise InputError(
            "--launch: another launcher started this process (LOCAL_RANK is set); leave --launch out, "
            "or unset LOCAL_RANK"
        )
    count = os.environ.get("WORLD_SIZE") or "1"
    if not is_launched and launch is None and count != "1":
        raise InputError(
            f"WORLD_SIZE is {count}, and no launcher started this process; write --launch ddp "
            "--num-machines and --machine-rank, or `torchrun ... -m llmkd train`, or unset WORLD_SIZE"
        )


def run_share_of(launch: Launch, arguments: list[str]) -> None:
    """Runs `llmkd train` on this machine's processes, as part of several machines'.

    Raises:
        ChildFailedError: A process failed, or SIGTERM came.
    """
    ended = run_child(launch.command("llmkd", "train", *arguments))
    status = ended.exit_status
    if status == 0:
        return
    what = {TERMINATED: "ended by SIGTERM", BAD_INPUT: "has bad input"}.get(status)
    if what is None and ended.status < 0:
        what = f"a process was killed by signal {-ended.status}"
    what = what or f"a process failed with exit status {ended.status}"
    next_step = "; the same command on all machines goes on from what was saved"
    raise ChildFailedError(
        f"machine {launch.machine_rank} of {launch.num_machines}: {what}"
        f"{next_step * (status != BAD_INPUT)}",
        status,
    )
