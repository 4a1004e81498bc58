"""Two processes by torchrun: they resume to the same bits, and read a stream as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

SCRIPTS = Path(sys.executable).parent
RECIPE = {
    "name": "parity",
    "kind": "train",
    "student": {
        "kind": "scratch",
        "config": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    },
    "data": {"kind": "task", "digits": 2, "num_examples": 100},
    "losses": [
        {"kind": "forward_kl", "temperature": 2.0},
        {"kind": "cross_entropy", "weight": 0.3},
    ],
    "trainer": {
        "max_steps": 5,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
    },
}


@pytest.fixture
def recipe(tmp_path, tokenizer, tiny_llama):
    teacher = tmp_path / "teacher"
    tiny_llama(tokenizer).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    path = tmp_path / "parity.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"teacher": {"model_name_or_path": str(teacher)}}))
    return path


def train(recipe, name, *overrides, num_processes=1):
    """Runs the recipe by the command line; returns its log and the product's weights."""
    folder = recipe.parent / name
    launcher = []
    if num_processes > 1:
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={num_processes}",
        ]
    command = [sys.executable, *launcher, "-m", "llmkd", "train", str(recipe),
               f"output_dir={folder}", *overrides]  # fmt: skip
    done = subprocess.run(
        command,
        # DeepSpeed compiles with ninja, which lies beside the interpreter.
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = folder / "stages" / "train"
    log = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return log, load_file(stage / "model" / "model.safetensors"), done.stderr


def assert_same(ours, reference):
    # Sums in another order: float32 rounding, which five Adam steps at 1e-2 magnify a little.
    for line, expected in zip(ours[0], reference[0], strict=True):
        assert line["tokens"] == expected["tokens"]
        for key in ("loss", "loss/forward_kl", "loss/cross_entropy", "teacher_nll", "kl"):
            assert line[key] == pytest.approx(expected[key], rel=1e-4), key
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
    assert ours[1].keys() == reference[1].keys()
    for name, weight in reference[1].items():
        torch.testing.assert_close(ours[1][name], weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "strategy", [pytest.param("random", marks=pytest.mark.slow), "group_by_length"]
)
def test_two_processes_resume_in_a_later_epoch_to_the_same_bits(recipe, tmp_path, strategy):
    # 20 rows in batches of 2x4: 3 steps an epoch, so step 5 is within the second.
    settings = [
        "data.num_examples=20",
        "trainer.per_device_train_batch_size=4",
        "trainer.max_steps=8",
        "trainer.save_strategy=steps",
        "trainer.save_steps=5",
        "trainer.lr_scheduler_type=constant",
        f"trainer.train_sampling_strategy={strategy}",
    ]
    whole = train(recipe, "whole", *settings, num_processes=2)
    checkpoint = tmp_path / "whole" / "stages" / "train" / "checkpoints" / "checkpoint-5"
    resumed = train(recipe, "resumed", *settings, f"resume={checkpoint}", num_processes=2)
    assert [line["step"] for line in resumed[0]] == [6, 7, 8]
    for line, expected in zip(resumed[0], whole[0][5:], strict=True):
        assert line["loss"] == expected["loss"]
    assert all(torch.equal(whole[1][name], resumed[1][name]) for name in whole[1])


def test_two_processes_read_a_packed_stream_as_one(recipe, tmp_path):
    rows = [{"prompt": "1+2=" * (1 + i % 5), "completion": "3" * (1 + i % 7)} for i in range(300)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data={{dataset_name: {tmp_path}/sums.jsonl, max_length: 64, packing: true, streaming: true}}"  # fmt: skip
    settings = [data, "term_gradient_steps=2"]
    one = train(recipe, "one", *settings)
    half = "trainer.per_device_train_batch_size=4"
    two = train(recipe, "ddp", *settings, half, num_processes=2)
    assert_same(two, one)
    for name in ("grad_norm/forward_kl", "grad_norm/cross_entropy"):
        norms = [[line[name] for line in log if name in line] for log in (two[0], one[0])]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        assert len(norms[0]) == 3
