import hypothesis.strategies as st
import pytest
from hypothesis import given

from llmkd.teacher_data.store.errors import UnknownFormatError
from llmkd.teacher_data.store.settings import StoreSettings


@given(num_rows=st.integers(0, 60), rows_per_shard=st.integers(1, 20))
def test_the_shards_have_every_row_once_in_order(num_rows, rows_per_shard, made):
    settings = made.make_settings(num_rows=num_rows, rows_per_shard=rows_per_shard)
    ranges = [settings.rows_of(number) for number in range(settings.num_shards)]
    assert [row for rows in ranges for row in rows] == list(range(num_rows))
    assert all(len(rows) == rows_per_shard for rows in ranges[:-1])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1}, {"teacher_digest": "x"}, {"tokenizer_digest": "x"}, {"rows_per_shard": 6},
        {"num_rows": 24}, {"data_digest": "x"}, {"engine": "vllm"}, {"vocab_size": 41},
        {"kind": "scored"}, {"num_samples": 3}, {"is_encoder_decoder": True}, {"capture": None},
        {"sampling": {"temperature": 0.9, "stop": []}}, {"sampling": {"temperature": 1.0, "stop": ["."]}},
    ],
)  # fmt: skip
def test_every_setting_counts_and_is_named(changes, made):
    settings, other = made.make_settings(), made.make_settings(**changes)
    assert settings.fingerprint != other.fingerprint
    assert next(iter(changes)) in settings.differences(other)


def test_differences_name_the_key_within_a_part(made):
    settings = made.make_settings()
    other = made.make_settings(seed=7, sampling={"temperature": 0.5, "stop": []})
    assert settings.differences(other) == "seed 0 and 7, sampling.temperature 1.0 and 0.5"
    assert settings.differences(made.make_settings()) == ""


def test_settings_come_back_from_json(made):
    settings = made.make_settings("sampled")
    assert StoreSettings.from_json(settings.as_json(), "here") == settings


@pytest.mark.parametrize("format_", [0, 2, "1", None])
def test_another_format_is_refused(format_, made):
    data = made.make_settings().as_json() | {"format": format_}
    with pytest.raises(
        UnknownFormatError, match=r"^here: has format .*reads format 1; use the version"
    ):
        StoreSettings.from_json(data, "here")


def test_log_probabilities_are_quantised_unless_the_capture_says_otherwise(made):
    assert made.make_settings("top_k").precision == "float32"
    assert made.make_settings("sampled").precision == "quantised"
    assert made.make_settings(None).precision == "quantised"
