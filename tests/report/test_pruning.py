import json
import re

import pytest

from llmkd.report.roles import find_roles
from llmkd.report.write import write_report

RECORD = {
    "num_examples": 1234,
    "block_influence": [0.5, 0.25, 0.125, 0.5],
    "angular_distances": [[0.3, 0.2, 0.1, 0.4], [0.31, 0.21, 0.41], [0.5, 0.6], [0.7]],
    "removed_layers": [1, 2],
    "before": {"num_hidden_layers": 4, "parameters": 2000000, "flops_per_token": 4000000.0},
    "after": {"num_hidden_layers": 2, "parameters": 1500000, "flops_per_token": 3000000.0},
}
PRUNED = {
    "kind": "prune",
    "model": {"model_name_or_path": "stage:teacher"},
    "data": {"dataset_name": "stage:texts"},
    "depth": {"remove_layers": 2},
}


@pytest.fixture
def section(make_run, stages):
    """Writes a report of a record; gives its section on pruning, or None."""

    def make(record):
        stages["pruned"] = PRUNED
        folder = make_run(stages=stages)
        (folder / "stages/pruned/pruning.json").write_text(json.dumps(record))
        html = write_report([folder]).read_text()
        found = re.search(r'<section id="pruning">.*?</section>', html, re.DOTALL)
        return found and found[0], html

    return make


def test_a_prune_stage_has_charts_and_its_sizes(section):
    found, _ = section(RECORD)
    assert "pruned: layers removed: 1, 2" in found
    assert "Measured on 1,234 calibration rows" in found
    assert "<td>parameters</td>" in found
    assert re.search(r"2,000,000</td>\s*<td[^>]*>1,500,000</td>\s*<td[^>]*>75 %", found)
    influence, distances = re.findall(r"<svg.*?</svg>", found, re.DOTALL)
    assert "(0: 0.5; 1: 0.25; 2: 0.125; 3: 0.5); removed: 1, 2" in influence
    assert "removed from here" in distances
    # Of blocks of two layers, as two went.
    assert "0.31" in distances
    assert "0.6" not in distances.split("data-lines")[1]


def test_the_bars_of_removed_layers_have_their_own_colour(section):
    found, _ = section(RECORD)
    lines = json.loads(re.search(r'data-lines="(.*?)"', found)[1].replace("&#34;", '"'))
    shown = {line["name"]: {(x, y) for *_, x, y in line["points"] if y != "0"} for line in lines}
    assert shown["stays"] == {("-0.5", "0.5"), ("0.5", "0.5"), ("2.5", "0.5"), ("3.5", "0.5")}
    assert shown["removed"] == {
        ("0.5", "0.25"),
        ("1.5", "0.25"),
        ("1.5", "0.125"),
        ("2.5", "0.125"),
    }
    assert len({line["color"] for line in lines}) == 2


def test_layers_that_do_not_neighbour_have_no_common_start(section):
    found, _ = section({**RECORD, "removed_layers": [0, 2]})
    assert "removed from here" not in found


def test_named_layers_have_sizes_alone(section):
    found, _ = section({key: RECORD[key] for key in ("removed_layers", "before", "after")})
    assert "nothing was measured" in found
    assert "<svg" not in found
    assert "<td>flops_per_token</td>" in found


@pytest.mark.parametrize("broken", [{"removed_layers": [-1]}, {"block_influence": [float("nan")]}])
def test_a_broken_record_is_told_and_left_out(section, broken):
    found, html = section(RECORD | broken)
    assert found is None
    assert "pruning.json" in html


def test_the_model_before_pruning_is_no_twin(make_recipe, stages):
    stages["pruned"] = PRUNED
    stages["healed"] = {**stages["twin"], "student": {"model_name_or_path": "stage:pruned"}}
    stages["student"]["student"] = {"model_name_or_path": "stage:pruned"}
    stages["student"]["teacher"] = {"model_name_or_path": "org/other"}
    stages["student"]["data"] = stages["twin"]["data"]
    del stages["texts"]
    stages["pruned"] = {**PRUNED, "data": stages["twin"]["data"]}
    stages["evaluation"]["models"] = [
        "stage:teacher",
        "stage:pruned",
        "stage:healed",
        "stage:student",
    ]
    order = ["teacher", "pruned", "twin", "healed", "student", "evaluation"]
    roles = find_roles(make_recipe({name: stages[name] for name in order}))
    assert (roles["teacher"], roles["pruned"]) == ("other", "other")
    assert (roles["healed"], roles["student"]) == ("twin", "student")
