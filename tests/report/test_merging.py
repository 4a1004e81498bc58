import html
import json
import re

from llmkd.report.write import write_report

MERGE = {"kind": "merge", "models": ["stage:twin", "stage:student"], "method": {"kind": "slerp"}}
COSINES = [
    {"layer": layer, "model": "models.1", "mean": 0.75 + layer / 8, "lowest": 0.5, "lowest_tensor": "a <b>"}
    for layer in (0, 1, 2)
]  # fmt: skip
MANIFEST = {"num_tensors": 1234, "num_interpolated_linearly": 5, "cosines": COSINES}


def section_of(folder, content):
    (folder / "stages/merged/model").mkdir(exist_ok=True)
    (folder / "stages/merged/model/merge.json").write_text(json.dumps(content))
    page = write_report([folder]).read_text()
    start = page.find('<section id="merging">')
    return page[start : page.index("</section>", start)] if start > 0 else page


def test_a_merge_stage_shows_what_was_merged_and_how_far_apart_it_was(make_run, stages):
    stages["merged"] = MERGE
    folder = make_run(stages=stages)
    assert 'id="merging"' not in write_report([folder]).read_text()
    section = section_of(folder, MANIFEST)
    assert "merged: slerp, weight 0.5" in section
    assert "1,234 tensors; 5 of them, on one line, interpolated linearly" in section
    assert section.index("twin") < section.index("student")
    assert "the lowest: 0.5, a &lt;b&gt; of student." in section
    # Layers 0, 1 and 2 are a line of three points, with their values for the pointer.
    (found,) = re.findall(r'data-lines="([^"]+)"', section)
    (line,) = json.loads(html.unescape(found))
    assert [point[2:] for point in line["points"]] == [["0", "0.75"], ["1", "0.875"], ["2", "1"]]


def test_one_layer_makes_no_line_and_a_broken_file_is_told(make_run, stages):
    stages["merged"] = MERGE
    folder = make_run(stages=stages)
    section = section_of(folder, MANIFEST | {"cosines": COSINES[:1]})
    assert "1,234 tensors" in section
    assert "<svg" not in section
    page = section_of(folder, MANIFEST | {"cosines": 3})
    assert "merge.json" in page
    assert 'id="merging"' not in page
