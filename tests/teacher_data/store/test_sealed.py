import json
import string

import hypothesis.strategies as st
import pytest
import xxhash
from hypothesis import given

from llmkd.teacher_data.store.sealed import (
    checksum,
    file_checksum,
    read_sealed,
    sealed,
    write_sealed,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8)
FIELDS = st.dictionaries(st.text(string.ascii_lowercase, max_size=6), JSON)


@given(data=FIELDS)
def test_what_is_sealed_is_read_again(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "plan.json"
    write_sealed(path, data)
    assert read_sealed(path) == data
    assert json.loads(path.read_bytes())["checksum"]


def test_every_single_bit_counts(tmp_path):
    path = tmp_path / "plan.json"
    whole = sealed({"format": 1, "settings": {"seed": 10, "share": 0.5, "name": "Ünï"}, "list": []})
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match="checksum"):
                read_sealed(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b'{"checksum": 1}', b"\xff", b"[" * 10**5]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        read_sealed(path)


def test_a_file_s_checksum_is_that_of_its_content(tmp_path):
    content = bytes(range(256)) * 3000
    (tmp_path / "file").write_bytes(content)
    assert (
        file_checksum(tmp_path / "file")
        == checksum(content)
        == f"{xxhash.xxh3_64_intdigest(content):016x}"
    )
