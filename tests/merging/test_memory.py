"""The peak of a merge follows from its largest tensor, not from how many there are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20
# Larger than what the C library keeps for itself when it is freed.
NUM_TENSORS, SIZE = 5, 36 * MIB


def resident(field):
    return 1024 * int(STATUS.read_text().partition(f"{field}:")[2].split()[0])


@pytest.mark.skipif(not CLEAR.exists(), reason="the peak is Linux's to tell")
def test_a_merge_holds_one_tensor_of_each_model(saved, merged):
    folders = [saved("a", 1), saved("b", 2)]
    merged(*folders, kind="slerp", output="warm")
    tensors = {f"{i}.weight": torch.full((9, MIB), i + 1.0) for i in range(NUM_TENSORS)}
    for folder in folders:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    del tensors
    CLEAR.write_text("5")  # From here on, the peak is counted anew.
    before = resident("VmRSS")
    folder = merged(*folders, kind="slerp")
    peak = resident("VmHWM") - before
    assert (folder / "model.safetensors").stat().st_size > NUM_TENSORS * SIZE
    # One of each model and the sum make three; of 15 in the three files.
    assert peak < 3.5 * SIZE
