def test_the_label_is_written_as_the_recipe_writes_it(curate):
    texts = ["The answer is card arrival.", "WEATHER", "answer: soup", "The answer is"]
    rows = [{"prompt": "p", "completion": text} for text in texts]
    labels = ["Card Arrival", "weather", "other"]
    found = curate(rows, {"kind": "extract", "grader": "exact_match", "labels": labels})
    assert [row["label"] for row in found.rows] == ["Card Arrival", "weather"]
    assert found.step["dropped"] == {"not one of the labels": 2}


def test_any_answer_goes_into_a_column_of_a_given_name(curate):
    rows = [{"prompt": "p", "completion": text} for text in ("it is 1/2", "none")]
    found = curate(rows, {"kind": "extract", "grader": "number", "column": "value"})
    assert found.rows == [rows[0] | {"value": "1/2"}]
    assert found.step["dropped"] == {"no answer": 1}
