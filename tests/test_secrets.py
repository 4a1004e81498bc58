import pytest

from llmkd.secrets import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("stages.a.trainer.hub_token=hf_x", "stages.a.trainer.hub_token=***"),
        ("reward.arguments.OPENAI_API_KEY=a=b\nc", "reward.arguments.OPENAI_API_KEY=***"),
        ("--token=x", "--token=***"),
        ("engine.base_url=http://me:x@host:1/v1", "engine.base_url=http://***@host:1/v1"),
        # A password may have an @ of its own.
        ("https://me:a@b@host/x@y", "https://***@host/x@y"),
    ],
)
def test_a_secret_is_left_out(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "trainer.max_steps=3",
        "teacher.column=token",
        "engine.api_key_variable=SERVER_KEY",
        "generation.stop_tokens=[a]",
        "base_url=http://host:1/v1",
        "me@host.example",
    ],
)
def test_all_else_stays(text):
    assert masked(text) == text
