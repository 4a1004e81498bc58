from types import SimpleNamespace

import numpy as np
import pytest

from llmkd.errors import InputError
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, SampledCapture, ServerEngine, TopKCapture
from llmkd.teacher_data import server_engine
from llmkd.teacher_data.server_engine import ServedVLLM

PROMPTS = [[1, 5, 14, 6, 15], [1, 7], [1, 12, 13, 14, 4, 15]]
SAMPLED = Generation(max_completion_length=8)
VOCABULARY = 18


@pytest.fixture
def engine(teacher, vllm_server):
    """Makes engines that ask the stub server of the teacher."""
    engines = []

    def make(generation=SAMPLED, capture=None, folder=teacher[0], adapter=None, **settings):
        settings = {"kind": "server", "base_url": vllm_server.url} | settings
        source = PretrainedModel(model_name_or_path=str(folder), adapter_name_or_path=adapter)
        engines.append(
            ServedVLLM(source, ServerEngine.model_validate(settings), generation, capture)
        )
        return engines[-1]

    yield make
    for each in engines:
        each.close()


@pytest.mark.parametrize("top_k", [1, 5, 18, 50])
def test_what_is_captured_of_a_completion_is_the_models_distribution(
    engine, teacher, check_positions, top_k
):
    hot = Generation(max_completion_length=8, temperature=2.0, top_p=0.9)
    done = engine(hot, TopKCapture(top_k=top_k)).generate(PROMPTS, [3, 4, 5])
    for prompt, each in zip(PROMPTS, done, strict=True):
        ids = [*prompt, *each.token_ids]
        places = range(len(prompt), len(ids))
        check_positions(each.positions, ids, places, teacher[1], min(top_k, VOCABULARY))


@pytest.mark.parametrize("top_k", [1, 5, 18])
def test_scores_are_the_models_at_the_places_that_are_asked_for(
    engine, teacher, top_k, check_positions
):
    sequences = [[1, 5, 14, 6, 15, 8, 2], [1, 9], [1, *range(4, 17)]]
    spans = [[1, 2, 4, 7], [1, 2], [3, 5]]
    scored = engine(None, TopKCapture(top_k=top_k)).score(sequences, spans)
    for ids, places, positions in zip(sequences, [[1, 4, 5, 6], [1], [3, 4]], scored, strict=True):
        check_positions(positions, ids, places, teacher[1], top_k)


@pytest.mark.parametrize(("top_k", "temperature"), [(3, 1.0), (50, 0.0)])
def test_rows_that_only_pad_the_head_are_left_out(
    engine, vllm_server, padded, check_padded, top_k, temperature
):
    vllm_server.respond.model, vllm_server.respond.max_logprobs = padded[1], 32
    generation = Generation(max_completion_length=20, temperature=temperature)
    check_padded(engine(generation, TopKCapture(top_k=top_k), folder=padded[0]), PROMPTS, top_k)


def test_a_server_gives_more_log_probs_than_are_kept_where_the_head_is_padded(
    engine, vllm_server, padded
):
    vllm_server.respond.model = padded[1]
    message = "gives 20 .* and 7 are .* kept, and 14 .* padded; .*--max-logprobs 21`, .*top_k: 6$"
    with pytest.raises(InputError, match=message):
        engine(capture=TopKCapture(top_k=7), folder=padded[0])
    engine(capture=TopKCapture(top_k=6), folder=padded[0])
    vllm_server.respond.max_logprobs = 14
    with pytest.raises(InputError, match=r"--max-logprobs 15`$"):
        engine(capture=TopKCapture(top_k=1), folder=padded[0])


def test_messages_name_the_key_that_a_recipe_has(teacher, vllm_server):
    source = PretrainedModel(model_name_or_path=str(teacher[0]))
    settings = ServerEngine(kind="server", base_url=vllm_server.url, model="b")
    with pytest.raises(InputError, match=r"^teacher\.server\.model: the server has no model b"):
        ServedVLLM(source, settings, None, TopKCapture(), key="teacher.server")


def test_a_sequence_as_long_as_the_server_reads_is_scored_whole(engine, teacher, check_positions):
    ids = [1, *([5, 6, 7] * 21)]
    assert len(ids) == 64
    (positions,) = engine(None, TopKCapture(top_k=3)).score([ids], [[1, 64]])
    check_positions(positions, ids, range(1, 64), teacher[1], 3)


def test_a_completion_is_what_the_server_wrote_up_to_its_end(engine, vllm_server, tokenizer):
    done = engine().generate([PROMPTS[0]] * 30, range(30))
    assert {each.finish_reason for each in done} == {"stop", "length"}
    for each in done:
        is_ended = each.token_ids[-1] == tokenizer.eos_token_id
        assert (each.finish_reason == "stop") == is_ended
        assert is_ended or len(each.token_ids) == 8
        assert each.text == tokenizer.decode(each.token_ids, skip_special_tokens=True)
        assert each.positions is None


def test_text_ends_before_a_stop_string(engine):
    stop = Generation(max_completion_length=40, stop=["3", "=+"])
    free = Generation(max_completion_length=40)
    stopped = engine(stop).generate([PROMPTS[0]] * 10, range(10))
    whole = engine(free).generate([PROMPTS[0]] * 10, range(10))
    for short, long in zip(stopped, whole, strict=True):
        ends = [long.text.find(text) for text in stop.stop if text in long.text]
        assert short.text == (long.text[: min(ends)] if ends else long.text)
        assert short.token_ids == long.token_ids[: len(short.token_ids)]
    assert any("3" in each.text for each in whole)


def test_each_completion_has_its_own_seed_and_nothing_is_left_to_the_servers_defaults(
    engine, vllm_server
):
    served = engine(Generation(max_completion_length=8, temperature=0.7, top_p=0.9, stop=["3"]))
    vllm_server.bodies.clear()
    first = served.generate([PROMPTS[0]] * 4, [3, 4, 3, 4])
    assert first[:2] == first[2:]
    assert first[0] != first[1]
    sent = {body["seed"]: body for body in vllm_server.bodies}
    assert sent.keys() == {3, 4}
    assert sent[3] == {
        "model": "teacher", "prompt": PROMPTS[0], "seed": 3, "temperature": 0.7, "top_p": 0.9,
        "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "stop": ["3"], "stop_token_ids": [2], "ignore_eos": True,
        "max_tokens": 8, "logprobs": None, "add_special_tokens": False, "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }  # fmt: skip


def test_a_completion_has_no_more_tokens_than_there_is_room_for(engine):
    served = engine(Generation(max_completion_length=40, temperature=0.0))
    (done,) = served.generate([[1, *([5] * 59)]], [0])
    assert (len(done.token_ids), done.finish_reason) == (4, "length")


def test_minus_infinity_comes_back(engine, teacher, vllm_server):
    served = engine(None, TopKCapture(top_k=18))

    def never_three(choice):
        for mapping in choice["prompt_logprobs"][1:]:
            mapping["3"]["logprob"] = -9999.0

    vllm_server.respond.change = never_three
    (positions,) = served.score([[1, 5, 6]], [[1, 3]])
    of_three = positions.log_probs[positions.token_ids == 3]
    assert of_three[0] == -np.inf < of_three[1]


@pytest.mark.parametrize(
    ("budget", "most_at_once"), [(8 * 3, 1), (8 * 3 * 2 + 5, 2), (10**6, 4), (1, 1)]
)
def test_answers_that_are_waited_for_hold_so_many_log_probs_and_no_more(
    engine, vllm_server, monkeypatch, budget, most_at_once
):
    monkeypatch.setattr(server_engine, "MAX_LOG_PROBS", budget)
    served = engine(SAMPLED, TopKCapture(top_k=3), max_concurrency=4)
    found = []
    ask = served._server.ask
    served._server.ask = lambda requests, most: (found.append(most), ask(requests, most))[1]
    assert len(served.generate([PROMPTS[0]] * 6, range(6))) == 6
    assert found == [most_at_once]
    assert vllm_server.most_at_once <= most_at_once


def test_a_completion_that_a_dying_server_cut_short_is_asked_for_again(
    engine, vllm_server, monkeypatch
):
    monkeypatch.setattr("llmkd.teacher_data.server_client.FIRST_WAIT_S", 0.0)
    served = engine()
    expected = served.generate(PROMPTS, [0, 1, 2])
    reasons = iter(["abort", None, "error"])

    def cut(choice):
        if reason := next(reasons, None):
            choice.update(finish_reason=reason, token_ids=choice["token_ids"][:1])

    vllm_server.respond.change = cut
    assert served.generate(PROMPTS, [0, 1, 2]) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[1:], "read 4 tokens where 5 were sent, different from number 1 on"),
        (lambda ids: [*ids, 2], "read 6 tokens where 5 were sent, different from number 6 on"),
        (lambda ids: [*ids[:3], 9, 9], "different from number 4 on"),
        (lambda ids: None, "does not say which tokens"),
    ],
)
def test_a_server_that_reads_other_tokens_than_were_sent_is_refused(
    engine, vllm_server, change, message
):
    served = engine()
    vllm_server.respond.change = lambda choice: choice.update(
        prompt_token_ids=change(choice["prompt_token_ids"])
    )
    with pytest.raises(InputError, match=message):
        served.generate([PROMPTS[0]], [0])


def test_a_server_with_another_tokenizer_is_refused(engine, vllm_server, tokenizer):
    vllm_server.respond.tokenizer = SimpleNamespace(
        encode=lambda *text, **settings: tokenizer.encode(*text, **settings)[::-1],
        decode=tokenizer.decode,
    )
    with pytest.raises(InputError, match=r"does not tokenize as teacher\.model_name_or_path"):
        engine()


def test_a_server_that_gives_fewer_log_probs_says_how_to_start_it(engine, vllm_server):
    vllm_server.respond.max_logprobs = 7
    message = "gives 7 .* and 8 are .* `vllm serve teacher --max-logprobs 8`, .* capture.top_k: 7"
    with pytest.raises(InputError, match=message):
        engine(capture=TopKCapture(top_k=8))
    engine(capture=TopKCapture(top_k=7))


@pytest.mark.parametrize(
    ("mode", "message"),
    [("processed_logprobs", "change with the temperature"), ("raw_logits", "add up to")],
)
def test_a_server_that_gives_something_else_than_log_probs_is_refused(
    engine, vllm_server, mode, message
):
    vllm_server.respond.log_probs_mode = mode
    with pytest.raises(InputError, match=f"{message}.*--logprobs-mode raw_logprobs"):
        engine(capture=TopKCapture(top_k=8))
    engine()


def test_the_model_is_the_only_one_or_the_one_that_is_named(engine, vllm_server):
    with pytest.raises(InputError, match=r"engine\.model: the server has no model b; .* teacher$"):
        engine(model="b")
    vllm_server.respond.names = ["a", "b"]
    with pytest.raises(InputError, match=r"engine\.model: the server has several .* a, b$"):
        engine()
    engine(model="b").generate([PROMPTS[0]], [0])
    assert vllm_server.bodies[-1]["model"] == "b"


@pytest.mark.parametrize(
    ("capture", "key"),
    [
        (SampledCapture(kind="sampled"), "capture.kind"),
        (TopKCapture(temperature=2.0), "temperature"),
    ],
)
def test_what_vllm_cannot_capture_is_refused_before_the_server_is_asked(
    engine, vllm_server, capture, key
):
    with pytest.raises(InputError, match=rf"{key}.*engine: {{kind: transformers}}"):
        engine(capture=capture)
    assert not vllm_server.bodies


def test_a_seq2seq_teacher_is_refused(engine, tiny_seq2seq, tokenizer, tmp_path):
    tiny_seq2seq(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"encoder and a decoder \(t5\).*kind: transformers"):
        engine(folder=tmp_path)


def test_prompts_and_sequences_that_the_server_cannot_take_are_refused(engine):
    served = engine(SAMPLED, TopKCapture(top_k=2))
    with pytest.raises(InputError, match="prompt 2 has no tokens"):
        served.generate([[1], []], [0, 0])
    with pytest.raises(InputError, match="a prompt has 64 tokens, and vLLM takes 63 of a prompt"):
        served.generate([[1] * 64], [0])
    with pytest.raises(InputError, match="a sequence has 65 tokens, and vLLM takes 64"):
        served.score([[1] * 65], [[1, 2]])


def test_an_adapter_is_one_of_the_servers_models(engine, vllm_server):
    vllm_server.respond.adapters = {"tuned": "teacher"}
    long = Generation(max_completion_length=100)
    served = engine(long, adapter="some/adapter", model="tuned")
    # As many tokens as the base model's card leaves room for.
    assert all(len(each.token_ids) < 64 for each in served.generate(PROMPTS, [3, 4, 5]))
    assert {body["model"] for body in vllm_server.bodies if body} == {"tuned"}
    with pytest.raises(InputError, match=r"engine\.model: .* write one of teacher, tuned"):
        engine(adapter="some/adapter")
    message = r"engine\.model: teacher is served without an adapter.* --lora-modules NAME=ADAPTER"
    with pytest.raises(InputError, match=message):
        engine(adapter="some/adapter", model="teacher")
