import json
import math
import re

import pytest

from llmkd.report.bar_chart import binned, histogram
from llmkd.report.curves import mean_and_band, thinned
from llmkd.report.interval_chart import Whisker, interval_chart
from llmkd.report.line_chart import BOTTOM, TOP, Mark, Series, line_chart
from llmkd.report.stage_files import Bin, Reliability


def chart(points, **options):
    return str(line_chart([Series("m", "c", points)], label="l", x_label="x", **options))


def test_a_line_goes_through_its_points_and_stops_at_a_gap():
    svg = chart([(0, 1), (1, 2), (2, math.nan), (3, 1), (4, 2), (5, math.inf), (6, 1)])
    lines = re.findall(r'<path d="(M[^"]+)" class="line c"', svg)
    assert [line.count("L") for line in lines] == [1, 1]
    # The last point stands alone: a dot.
    assert svg.count("<circle") == 1
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize(
    "points", [[(0, math.nan)], [(5, 3)], [(5, 0), (6, 0)], [(0, 1e-300), (1, 1e299)]]
)
def test_a_line_with_little_to_show_is_still_a_chart(points):
    svg = chart(points, may_be_log=True)
    ys = [float(y) for y in re.findall(r'cy="([^"]+)"', svg)]
    assert all(TOP <= y <= BOTTOM for y in ys)
    assert "nan" not in svg


def test_the_pointer_reads_the_numbers_from_the_chart():
    svg = chart([(10, 1.5), (20, math.nan), (30, 2.5)])
    (found,) = re.findall(r'data-lines="([^"]+)"', svg)
    (line,) = json.loads(found.replace("&#34;", '"'))
    assert [point[2:] for point in line["points"]] == [["10", "1.5"], ["30", "2.5"]]


def test_a_logarithmic_chart_says_so():
    assert "log scale" in chart([(0, 1), (1, 1000)], may_be_log=True)
    assert "log scale" not in chart([(0, 1), (1, 1000)])


def test_a_mark_outside_the_points_is_within_the_chart():
    svg = chart([(0, 1), (10, 2)], mark=Mark(20, "max_length 20"))
    (x,) = re.findall(r'<line x1="([\d.]+)"[^>]+class="mark"', svg)
    assert 44 <= float(x) <= 350


def test_many_points_become_means_of_neighbours_and_a_gap_stays():
    points = [(float(i), float(i)) for i in range(10)]
    assert thinned(points, 1) == points
    assert thinned(points, 2) == [(1, 0.5), (3, 2.5), (5, 4.5), (7, 6.5), (9, 8.5)]
    gap = thinned([(0, 1.0), (1, math.nan), (2, 3.0), (3, 5.0)], 2)
    assert math.isnan(gap[0][1])
    assert gap[1] == (3, 4.0)


def test_runs_of_different_length_have_a_mean_where_they_are():
    means, band = mean_and_band([[(1, 1.0), (2, 2.0)], [(1, 3.0)]])
    assert means == [(1, 2.0), (2, 2.0)]
    assert band == [(1, 1.0, 3.0), (2, 2.0, 2.0)]
    # Step 2 is missing from a run that came further, so it is passed over.
    means, _ = mean_and_band([[(1, 1.0), (2, 2.0), (3, 3.0)], [(1, 3.0), (3, 5.0)]])
    assert means == [(1, 2.0), (3, 4.0)]
    means, band = mean_and_band([[(1, math.nan)], [(1, 3.0)]])
    assert math.isnan(means[0][1])
    assert band == []


def test_bars_hold_every_count():
    bars = binned([(0, 1), (59, 2), (60, 4)], edge=60, most=30)
    assert sum(amount for *_, amount in bars) == 7
    assert len(bars) <= 30
    assert bars[0] == (0.0, 3.0, 1.0)
    assert bars[-1][0] <= 60 < bars[-1][1]


def test_a_histogram_is_drawn_from_zero():
    svg = str(histogram([("m", "c", [(0, 8, 5), (8, 16, 3)])], label="l", x_label="tokens"))
    assert f" {BOTTOM:.1f}" in svg


def test_a_whisker_reaches_from_low_to_high_around_its_dot():
    rows = [
        Whisker("m", "c", "50 %", 0.5, 0.4, 0.6),
        Whisker("n", "c", "?", math.nan, math.nan, 1.0),
    ]
    svg = str(interval_chart(rows, label="l", is_percent=True))
    (low, high), *_ = re.findall(r'<line x1="([\d.]+)"[^>]*?x2="([\d.]+)"[^>]*class="whisker', svg)
    (dot,) = re.findall(r'<circle cx="([\d.]+)"', svg)
    assert float(dot) == pytest.approx((float(low) + float(high)) / 2, abs=0.1)
    assert "nan" not in svg
    assert " %</text>" in svg


def test_the_calibration_error_weighs_bins_by_their_count():
    bins = [Bin(confidence=0.5, accuracy=0.6, count=3), Bin(confidence=0.9, accuracy=0.7, count=1)]
    # (3 * 0.1 + 1 * 0.2) / 4
    found = Reliability(
        task="t", model="m", bins=[*bins, Bin(count=0), Bin(confidence=math.nan, count=1)]
    ).calibration_error
    assert found == pytest.approx(0.125)
    assert Reliability(task="t", model="m").calibration_error is None
