"""Two processes divide by the tokens that both of them imitate."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.testing import assert_close

RANKS = Path(__file__).with_name("ranks.py")


def test_a_group_over_two_processes_has_the_gradient_of_one(
    tmp_path, tokenizer, tiny_llama, teacher, by_hand
):
    student = tiny_llama(tokenizer)
    student.save_pretrained(tmp_path / "student")
    teacher.model.save_pretrained(tmp_path / "teacher")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(RANKS), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    counts = [sum(int(x["kd_tokens"].sum()) for x in rollouts) for rollouts, _ in ranks]
    assert counts[0] != counts[1]
    drawn = sum(int(x["completion_mask"].sum()) for rollouts, _ in ranks for x in rollouts)
    assert 0 < sum(counts) < drawn
    seen = [(copy.deepcopy(student), rollouts) for found, _ in ranks for rollouts in found]
    before = dict(student.named_parameters())
    found = {name: before[name].detach() - ranks[0][1][name] for name in before}
    assert_close(found, by_hand(seen, mask="response"), atol=1e-5, rtol=1e-4)
