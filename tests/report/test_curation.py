import json

from llmkd.report.write import write_report

MANIFEST = {
    "num_in": 1200,
    "num_out": 300,
    "seconds": 3.2,
    "steps": [
        {"kind": "length", "num_in": 1200, "num_out": 600, "dropped": {"too <b>long": 600}},
        {"kind": "verify", "num_in": 600, "num_out": 300, "dropped": {"wrong": 290, "no answer": 10}},
    ],
}  # fmt: skip


def test_a_curate_stage_has_a_table_and_a_funnel(make_run, stages):
    stages["curated"] = {"kind": "curate", "data": {"dataset_name": "stage:texts"}}
    folder = make_run(stages=stages)
    html = write_report([folder]).read_text()
    assert 'id="curation"' not in html
    (folder / "stages/curated/curation.json").write_text(json.dumps(MANIFEST))
    html = write_report([folder]).read_text()
    section = html[html.index('<section id="curation">') : html.index('<section id="data">')]
    assert "curated: 300 of 1,200 rows" in section
    assert "wrong\N{NO-BREAK SPACE}290, no answer\N{NO-BREAK SPACE}10" in section
    assert "too &lt;b&gt;long\N{NO-BREAK SPACE}600" in section
    # The bars of read, length and verify: all, a half and a quarter of the chart's 360.
    assert [width for width in ("360", "180", "90") if f'width="{width}"' in section] == [
        "360",
        "180",
        "90",
    ]


def test_a_broken_manifest_is_told_and_left_out(make_run, stages):
    stages["curated"] = {"kind": "curate", "data": {"dataset_name": "stage:texts"}}
    folder = make_run(stages=stages)
    (folder / "stages/curated/curation.json").write_text('{"num_in": -3}')
    html = write_report([folder]).read_text()
    assert "curation.json" in html
    assert 'id="curation"' not in html
