"""A server reads rollouts."""

import copy

import pytest
import torch
from torch.testing import assert_close

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import ServerEngine, TopKCapture
from llmkd.teacher_data.server_engine import ServedVLLM
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.rollouts import Rollouts, RolloutTeacher
from llmkd.teachers.served_rollouts import ServedRollouts

ASKED = {"temperature": 1.0, "batch_size": 1}


@pytest.fixture
def connect(vllm_server, tokenizer):
    """Has the stub server serve a model, in float64, and asks it."""
    engines = []

    def start(folder, model):
        vllm_server.respond.model = copy.deepcopy(model).double()
        settings = ServerEngine(kind="server", base_url=vllm_server.url)
        source = PretrainedModel(model_name_or_path=str(folder))
        engines.append(ServedVLLM(source, settings, None, TopKCapture(top_k=1)))
        vllm_server.bodies.clear()
        return ServedRollouts(engines[-1], vocab_size=len(tokenizer), ends=[2]), vllm_server

    yield start
    for engine in engines:
        engine.close()


def test_a_served_teacher_says_what_the_same_model_says_here(connect, teacher, tokenizer, rollouts):
    folder, model, _ = teacher
    served, server = connect(folder, model)
    here = InProcessTeacher(copy.deepcopy(model).double(), vocab_size=len(tokenizer))
    kept = rollouts.completion_mask.bool()
    # The first token, one in the middle, and all of a rollout are not asked about.
    kept[0, 0], kept[1], kept[2, 1] = False, False, False
    found = served.token_logprobs(rollouts, kept, **ASKED)
    expected = here.token_logprobs(rollouts, kept, **ASKED)
    assert expected[0, 1] != 0
    assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    assert isinstance(served, RolloutTeacher)
    assert [body["prompt"] + body["allowed_token_ids"] for body in server.bodies] == [
        [7, 8, 9, 2],
        [8, 9, 4, 5, 6, 7],
    ]
    for body in server.bodies:
        assert (body["max_tokens"], body["prompt_logprobs"], body["temperature"]) == (1, 1, 1.0)


def test_rows_that_pad_the_servers_head_are_taken_off_as_far_as_it_tells_of_them(
    connect, padded, tokenizer, rollouts
):
    folder, model, _ = padded
    served, _ = connect(folder, model)
    kept = rollouts.completion_mask.bool()
    found = served.token_logprobs(rollouts, kept, **ASKED)[kept]
    tokens, rows = (
        InProcessTeacher(copy.deepcopy(model), vocab_size=size).token_logprobs(
            rollouts, kept, **ASKED
        )[kept]
        for size in (len(tokenizer), 32)
    )
    assert (rows < tokens - 0.1).any()
    assert (found >= rows - 1e-5).all()
    assert (found <= tokens + 1e-5).all()
    # It tells of the 15 likeliest rows, of which some pad.
    assert (found > rows + 0.05).any()


def test_a_token_beyond_the_tokenizer_is_ruled_out_and_never_sent(
    connect, teacher, tokenizer, rollouts
):
    folder, model, _ = teacher
    served, server = connect(folder, model)
    ids = rollouts.completion_ids.clone()
    ids[2, 1] = 40
    odd = Rollouts(**{**vars(rollouts), "completion_ids": ids})
    found = served.token_logprobs(odd, odd.completion_mask.bool(), **ASKED)
    assert torch.equal(found.isinf(), ids == 40)
    assert max(max(body["prompt"]) for body in server.bodies) < len(tokenizer)


def test_nothing_to_ask_about_is_not_asked(connect, teacher, rollouts):
    served, server = connect(*teacher[:2])
    nothing = served.token_logprobs(rollouts, rollouts.completion_mask.bool() & False, **ASKED)
    assert not nothing.any()
    assert not server.bodies


def test_other_temperatures_and_whole_distributions_are_refused(connect, teacher):
    served, _ = connect(*teacher[:2])
    assert served.refusals(temperature=1.0, full_vocabulary=False) == []
    hot, whole = served.refusals(temperature=0.7, full_vocabulary=True)
    assert hot.startswith("trainer.temperature: 0.7 is not 1")
    assert hot.endswith("write temperature: 1, or teacher.kind: in_process")
    assert whole.startswith("objective.estimator: full_vocabulary takes")
    assert whole.endswith("write k2, or teacher.kind: in_process")
