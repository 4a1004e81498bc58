from llmkd.report.stage_files import Details
from llmkd.report.trade_offs import trade_offs
from llmkd.report.verdict import Group, Row


def group(metric, values):
    rows = [Row(model, "other", value, value, value) for model, value in values.items()]
    return Group("sums", metric, rows, {}, suite="s")


def test_shares_of_right_answers_are_drawn_over_size_and_over_tokens():
    groups = [
        group("pass@1", {"small": 0.25, "large": 0.5}),
        group("tokens", {"small": 30.0, "large": 90.0}),
        group("truncated", {"small": 0.1, "large": 0.2}),
        group("perplexity", {"small": 3.0, "large": 2.0}),
    ]
    details = [Details(parameters={"small": 1000, "large": 20000})]
    size, tokens = trade_offs(groups, details, {})
    assert size.title == "sums: pass@1 against parameters"
    assert size.caption == "small 25.0 % at 1,000; large 50.0 % at 20,000"
    assert tokens.caption == "small 25.0 % at 30; large 50.0 % at 90"


def test_models_of_one_size_or_of_none_known_need_no_chart():
    groups = [group("accuracy", {"a": 0.25, "b": 0.5, "c": 0.1})]
    assert trade_offs(groups, [Details(parameters={"a": 7, "b": 7})], {}) == []
    assert trade_offs(groups, [Details()], {}) == []
