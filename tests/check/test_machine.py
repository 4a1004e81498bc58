import os
import time

import pytest

from llmkd.check import machine
from llmkd.check.machine import MIB, AcceleratorQuery, Memory, free_disk, parse_accelerators

LINES = "NVIDIA H100 80GB HBM3, 81559, 80000\nNVIDIA T4, 15360, 15000\n"


def test_the_lines_of_nvidia_smi_are_read():
    assert parse_accelerators(LINES) == [
        Memory("GPU 0 (NVIDIA H100 80GB HBM3)", 81559 * MIB, 80000 * MIB),
        Memory("GPU 1 (NVIDIA T4)", 15360 * MIB, 15000 * MIB),
    ]


@pytest.mark.parametrize(
    "output", ["", "No devices were found\n", "a, [N/A], [N/A]\n", "a,b,c,d\n"]
)
def test_lines_of_another_form_are_left_out(output):
    assert parse_accelerators(output) == []


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a script in the place of nvidia-smi."""

    def install(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_nvidia_smi_is_asked(nvidia_smi):
    nvidia_smi(f"printf '{LINES}'")
    found, how = AcceleratorQuery().answer()

    assert [memory.total for memory in found] == [81559 * MIB, 15360 * MIB]
    assert how == "by nvidia-smi"


def test_it_is_not_waited_for_without_end(nvidia_smi, monkeypatch):
    monkeypatch.setattr(machine, "LONGEST_WAIT_S", 0.2)
    nvidia_smi("exec sleep 30")
    started = time.monotonic()

    assert AcceleratorQuery().answer() == ([], "nvidia-smi did not answer within 0 s")
    assert time.monotonic() - started < 5


def test_without_a_driver_it_finds_nothing(nvidia_smi):
    nvidia_smi("echo 'NVIDIA-SMI has failed'; exit 9")

    assert AcceleratorQuery().answer()[0] == []


def test_the_systems_memory_is_known_here():
    memory = machine.system_memory()

    assert memory is not None
    assert 0 < memory.free <= memory.total


def test_a_containers_limit_rules(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for name, value in (("max", 8 * MIB), ("current", 5 * MIB)):
        (tmp_path / f"memory.{name}").write_text(str(value))
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {MIB}\n")

    assert machine.system_memory() == Memory("memory of this container", 8 * MIB, 4 * MIB)


def test_the_disk_is_that_of_the_nearest_folder(tmp_path):
    folder, free = free_disk(tmp_path / "not" / "yet" / "there")

    assert folder == tmp_path
    assert free > 0
