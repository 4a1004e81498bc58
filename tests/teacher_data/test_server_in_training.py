"""A server that is asked during a training, and goes away in the middle of it."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from llmkd.errors import LlmkdError
from llmkd.recipe.schema import TrainStage
from llmkd.teacher_data.server_client import ServerClient
from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.train import run_train

NUM_ROWS = 4
"""Of a batch; one request each."""


@pytest.fixture
def stage(teacher, vllm_server):
    return TrainStage.model_validate(
        {
            "kind": "train",
            "student": {"kind": "scratch", "config": {"model_type": "llama", "hidden_size": 16,
                        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}},
            "teacher": {"kind": "server", "model_name_or_path": str(teacher[0]), "top_k": 8,
                        "server": {"kind": "server", "base_url": vllm_server.url, "max_retries": 3}},
            "data": {"kind": "task", "digits": 1, "num_examples": 20},
            "losses": [{"kind": "forward_kl"}],
            "trainer": {"max_steps": 4, "per_device_train_batch_size": NUM_ROWS,
                        "learning_rate": 1e-2, "save_steps": 1, "save_total_limit": 9},
        }
    )  # fmt: skip


@pytest.fixture
def on_wait(monkeypatch):
    """Has the client wait for no time, and call a function instead, with the number of the attempt."""

    def install(call):
        wait_s = ServerClient._wait_s

        def noted(self, attempt, *said):
            wait_s(self, attempt, *said)
            call(attempt)
            return 0.0

        monkeypatch.setattr(ServerClient, "_wait_s", noted)

    return install


def goes_away_after(server, num_requests):
    """Has a server stop in the middle of the next request after so many more."""

    def stop(handler):
        threading.Thread(target=server.stop).start()
        server.ends.wait(30)
        handler.close_connection = True
        handler.connection.close()

    # Those that are under way together meet the same fate.
    server.faults.extend([None] * num_requests + [stop] * NUM_ROWS)


@pytest.fixture
def whole(stage, vllm_server, tmp_path):
    """The weights of an undisturbed run, and how many requests it made."""
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    return weights(tmp_path / "whole"), len(vllm_server.bodies)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_a_training_rides_out_a_server_that_goes_away_and_comes_back(
    stage, vllm_server, serve, on_wait, whole, tmp_path, capsys
):
    expected, num_requests = whole
    back = []

    def come_back(attempt):
        if attempt == 2 and not back:
            back.append(serve(vllm_server.respond, vllm_server.server_port))

    on_wait(come_back)
    goes_away_after(vllm_server, num_requests - NUM_ROWS - 2)
    run_train(stage, tmp_path / "ridden", name="s", seed=0)
    assert len(back[0].bodies) >= NUM_ROWS + 2
    assert all(torch.equal(expected[n], found) for n, found in weights(tmp_path / "ridden").items())
    # A request on a connection of before may notice it when the server is back.
    assert capsys.readouterr().err.count("asking again") in (1, 2)


def test_a_server_that_stays_away_ends_the_training_and_what_was_saved_goes_on(
    stage, vllm_server, serve, on_wait, whole, tmp_path
):
    expected, num_requests = whole
    attempts = []
    on_wait(attempts.append)
    goes_away_after(vllm_server, num_requests - NUM_ROWS - 2)
    said = (
        rf"^teacher\.server\.base_url: {vllm_server.url} gave no usable answer, asked 4 times .*; "
        r"what was saved before is kept$"
    )
    with pytest.raises(LlmkdError, match=said):
        run_train(stage, tmp_path / "cut", name="s", seed=0)
    assert max(attempts) == 2
    # A batch is asked about one step ahead, five in all: it was away as step 3 was to begin.
    assert list(checkpoint_steps(tmp_path / "cut" / "checkpoints")) == [1, 2]
    serve(vllm_server.respond, vllm_server.server_port)
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    assert all(torch.equal(expected[n], found) for n, found in weights(tmp_path / "cut").items())
