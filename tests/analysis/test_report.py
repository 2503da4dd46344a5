import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from analysis import figures, pictures
from analysis.cli import app
from analysis.load import Results, load
from analysis.predictions import Predictions
from tests.analysis.synthetic_studies import quickstart, resnet, write_study

HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


def write_report(folder: Path, out: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    return (out / "index.html").read_text()


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(folder, out)
    return out / "index.html"


def test_the_page_holds_everything(page: Path) -> None:
    html = page.read_text()
    for text in (
        *("Findings", "refuted", "All trials side by side", "D. Speedup", "E. Search"),
        *("Learning curves", "Accuracy against time", "Settings", "Importance", "Timeline"),
        *("Confusion", "scheduler: {type: asha", "256 GiB", "NVIDIA A30", "0123456789abcdef"),
        *("SHA-256 of train-images-idx3-ubyte.gz", "2.60.0"),
    ):
        assert text in html


def test_the_page_refers_to_nothing_outside_itself(page: Path) -> None:
    html = page.read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert references
    assert all(r.startswith(("#", "data:")) for r in references)
    assert "url(http" not in html


def test_names_are_unique_on_the_page(page: Path) -> None:
    names = re.findall(r'\bid="([^"]*)"', page.read_text())
    assert len(names) == len(set(names))


def test_whatever_a_study_holds_is_escaped(tmp_path: Path) -> None:
    trials = [resnet(optimizer=HOSTILE), resnet(optimizer="sgd", error=HOSTILE)]
    folder = write_study(tmp_path / "a", trials, name=HOSTILE)
    html = write_report(folder, tmp_path / "out")
    assert "<script>document" not in html
    assert "<img" not in html


def test_a_report_of_the_reference_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--against", "reference", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "5.04 (one pair)" in (tmp_path / "index.html").read_text()


def test_a_report_of_a_study_that_never_ran(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(status="pending")])
    assert "1 trial never began" in write_report(folder, tmp_path / "out")


def test_the_confusion_counts_by_hand() -> None:
    predictions = Predictions(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    confusion = figures.count_confusion("x", predictions)
    assert confusion.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_spans_of_one_lane_do_not_overlap(results: Results) -> None:
    spans = figures.timeline(results.trials)
    assert len(spans) == 37
    for a in spans:
        for b in spans:
            if a is not b and (a.host, a.lane) == (b.host, b.lane):
                assert a.end <= b.begin or b.end <= a.begin


def test_the_best_curve_comes_first_and_svms_have_no_epochs(results: Results) -> None:
    curves = figures.learning_curves(results, results.trials)
    tops = [curve.accuracy.max() for curve in curves]
    assert tops == sorted(tops, reverse=True)
    svm = next(c for c in curves if c.name.startswith("svm"))
    assert np.isnan(svm.epochs).all()


def test_parallel_heights_are_within_the_axes(results: Results) -> None:
    parallel = figures.parallel_coordinates(results, results.trials)
    assert parallel is not None
    assert parallel.heights.shape == (len(parallel.names), len(parallel.axes))
    known = parallel.heights[~np.isnan(parallel.heights)]
    assert known.min() >= 0
    assert known.max() <= 1


def test_the_learning_rate_that_diverged_matters_most(results: Results) -> None:
    bars = figures.importance(results, results.trials)
    assert bars[0].name == "lr"
    assert sum(bar.value for bar in bars) == pytest.approx(1.0)


def test_drawing_needs_only_an_axes(results: Results) -> None:
    ax = Figure().add_subplot()
    pictures.draw_bars(ax, [figures.Bar("a", 2.0, 1.5, 2.5, 4)], "times faster", one=True)
    assert ax.get_xlabel() == "times faster"


def test_pictures_take_their_colours_from_the_page(results: Results) -> None:
    curves = figures.learning_curves(results, results.trials)
    svg = pictures.svg("x", lambda ax: pictures.draw_learning_curves(ax, curves))
    assert "var(--c0)" in svg
    assert not re.search(r"#0000[ef]\d", svg)


def test_without_optuna_the_report_says_so(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['optuna'] = None; from analysis.cli import main; "
        f"sys.argv = ['analysis', 'report', {str(folder)!r}, '--out', {str(tmp_path)!r}]; main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert "optuna is not installed" in (tmp_path / "index.html").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if not binary or not driver_path:
        pytest.skip("chromium with its chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ):
        options.add_argument(flag)
    if os.getuid() == 0:
        # Chromium's sandbox refuses to run as root, as in a container.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    yield driver
    driver.quit()


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_in_a_browser_no_request_leaves_and_no_error_is_logged(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.find_elements("css selector", "figure svg")
    assert browser.find_elements("css selector", "section.table tbody tr")
    assert [e for e in browser.get_log("browser") if e["level"] != "DEBUG"] == []
    requests = re.findall(
        r'"method":"Network\.requestWillBeSent".*?"url":"([^"]*)"',
        "\n".join(entry["message"] for entry in browser.get_log("performance")),
    )
    assert {url for url in requests if not url.startswith(("file:", "data:"))} == set()


def test_in_a_browser_a_heading_sorts_and_the_filter_filters(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    table = browser.find_element("id", "table-comparison")
    headings = [h.text for h in table.find_elements("css selector", "th")]
    column = next(i for i, h in enumerate(headings) if h.startswith("total s"))

    def times() -> list[float]:
        cells = table.find_elements("css selector", f"tbody td:nth-child({column + 1})")
        return [float(o) for c in cells if (o := c.get_attribute("data-order"))]

    button = table.find_elements("css selector", "th button")[column]
    browser.execute_script("arguments[0].click()", button)
    assert times() == sorted(times())
    browser.execute_script("arguments[0].click()", button)
    assert times() == sorted(times(), reverse=True)
    rows = table.find_elements("css selector", "tbody tr")
    assert rows[-1].find_elements("css selector", "td")[column].text == ""

    table.find_element("css selector", "input").send_keys("svm poly")
    shown = [r for r in table.find_elements("css selector", "tbody tr") if r.is_displayed()]
    assert len(shown) == 1
    assert table.find_element("css selector", "output").text == f"1 of {len(rows)} rows"


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_page_itself_never_scrolls_sideways(
    browser: Any, page: Path, width: int
) -> None:
    resize(browser, width)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_in_a_browser_no_script_of_a_study_runs(browser: Any, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(optimizer=HOSTILE)], name=HOSTILE)
    write_report(folder, tmp_path / "out")
    browser.get((tmp_path / "out" / "index.html").as_uri())
    assert browser.title.startswith("<script>")


def test_in_a_browser_dark_is_another_page_colour(browser: Any, page: Path) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page.as_uri())
        script = "return getComputedStyle(document.body).backgroundColor"
        colours.add(browser.execute_script(script))
    assert len(colours) == 2


def test_two_studies_make_one_page(tmp_path: Path) -> None:
    first = quickstart(tmp_path / "one")
    second = write_study(tmp_path / "two", [resnet()], name="other")
    names = [s.name for s in load([first, second]).studies]
    assert names == ["quickstart", "other"]
    result = CliRunner().invoke(
        app, ["report", str(first), str(second), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "<h1>quickstart, other</h1>" in (tmp_path / "out" / "index.html").read_text()
