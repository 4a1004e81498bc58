import hypothesis.strategies as st
from hypothesis import given, settings

from llmkd.report.samples import LONGEST_TEXT, cards, cut, pieces
from llmkd.report.stage_files import Answer, Sample


def marked(text, reference):
    return [piece.text for piece in pieces(text, reference) if piece.is_different]


@settings(max_examples=50)
@given(st.text(), st.text())
def test_pieces_put_together_are_the_answer(text, reference):
    assert "".join(piece.text for piece in pieces(text, reference)) == text


def test_short_texts_are_compared_by_character_and_long_ones_by_word():
    assert marked("1273", "1233") == ["7"]
    long = "the cat sat on the mat. " * 10
    assert marked(long.replace("cat", "cow", 1), long) == ["cow"]
    assert marked("same", "same") == []
    assert marked("free", None) == []


def test_only_a_wrong_answer_is_marked():
    answers = {
        "right": Answer(text="four", is_right=True),
        "wrong": Answer(text="five", is_right=False),
        "open": Answer(text="five"),
    }
    sample = Sample(task="t", example=0, prompt="2+2", reference="4", answers=answers)
    (card,) = cards([sample], {"right": "student-0"})
    is_marked = {a.model: any(p.is_different for p in a.pieces) for a in card.answers}
    assert is_marked == {"right": False, "wrong": True, "open": False}
    assert [answer.color for answer in card.answers] == ["student-0", "other-0", "other-0"]


def test_a_long_text_is_cut_and_says_so():
    assert len(cut("x" * 5000)) == LONGEST_TEXT + 1
    assert cut("x" * 5000).endswith("…")
