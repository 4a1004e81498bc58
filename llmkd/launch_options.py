"""The options of `llmkd train --launch`. Imports no torch."""

from typing import Annotated

import typer

LaunchOption = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="ENGINE|FILE",
        help="Train by several processes: ddp, zero1, zero2, zero3, fsdp2, or accelerate's own file.",
        rich_help_panel="Several processes",
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        help="On all machines together. Default: one for each accelerator.",
        rich_help_panel="Several processes",
    ),
]
NumMachines = Annotated[
    int,
    typer.Option(
        "--num-machines",
        help="Run the same command on each of them.",
        rich_help_panel="Several processes",
    ),
]
MachineRank = Annotated[
    int,
    typer.Option(
        "--machine-rank",
        help="Which of the machines this is, from 0.",
        rich_help_panel="Several processes",
    ),
]
MainProcessIp = Annotated[
    str | None,
    typer.Option(
        "--main-process-ip",
        help="Address of machine 0.",
        rich_help_panel="Several processes",
    ),
]
MainProcessPort = Annotated[
    int | None,
    typer.Option(
        "--main-process-port",
        help="A port that is free on machine 0.",
        rich_help_panel="Several processes",
    ),
]
DeviceMemory = Annotated[
    float | None,
    typer.Option(
        "--device-memory-gib",
        help="Hold estimates against accelerators with so much memory, not this machine's.",
        rich_help_panel="Several processes",
    ),
]
