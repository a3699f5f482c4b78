"""The page: its numbers against those computed here, what it refuses, and what a browser shows of it."""

import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.report.page import make_report
from ser_ts_lobes.report.sources import read_test_sets
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.intervals import compare, estimate
from tests.unit.report import runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Give the folder of runs, and a CSV of anybody's predictions of another corpus with its labels."""
    folder = tmp_path_factory.mktemp("study")
    random = np.random.default_rng(0)
    label = random.uniform(1, 5, (90, 3))
    tables = {
        "labels.csv": (["ID", "Gender", *DIMENSIONS], label, lambda i: [f"v{i}", "Female"]),
        "their.csv": (["FileName", *DIMENSIONS], label + random.normal(0, 0.5, label.shape), lambda i: [f"v{i}.wav"]),
    }
    for name, (columns, values, names) in tables.items():
        with open(folder / name, "w") as file:
            csv.writer(file).writerows([columns, *([*names(i), *row] for i, row in enumerate(values))])
    runs.write_study(folder)
    return folder


@pytest.fixture(scope="module")
def page(study):
    """Write the page of all of it."""
    path = study / "report.html"
    sources = [str(study / "made-up"), f"theirs={study / 'their.csv'}"]
    make_report(sources, path, [study / "labels.csv"], against="ft")
    return path


class Reader(HTMLParser):
    """Reads headings and the cells of tables, and what a page would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.ids, self.links, self.heading = {}, [], [], None
        self.rest, self.inside = 0, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "xlink:href")]
        if tag in ("script", "link", "iframe", "img", "image"):
            self.links.append(tag)
        if tag == "table":
            self.tables.setdefault(self.heading, []).append([])
        if tag == "tr":
            self.rest -= 1
            self.tables[self.heading][-1].append([self.row_name] if self.rest > 0 else [])
        if tag in ("th", "td") and "rowspan" in attributes:
            self.rest = int(attributes["rowspan"])
        if tag in ("h2", "h3", "th", "td"):
            self.inside, self.words = tag, []
            self.spans = "rowspan" in attributes

    def handle_data(self, text):
        if self.inside:
            self.words.append(text)

    def handle_endtag(self, tag):
        if tag != self.inside:
            return
        words, self.inside = " ".join(self.words), None
        if tag in ("h2", "h3"):
            self.part = words if tag == "h2" else self.part
            self.heading = words if tag == "h2" else (self.part, words)
        else:
            self.tables[self.heading][-1][-1].append(words)
            if self.spans:
                self.row_name = words


@pytest.fixture(scope="module")
def read(page):
    return Reader(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def test_set(study):
    [test_set] = read_test_sets([str(study / "made-up")])
    return test_set


def numbers(words):
    return [float(number) for number in re.findall(r"[-+]?\d*\.\d+", words.replace("−", "-"))]


def test_it_is_one_file_that_fetches_and_runs_nothing(page, read):
    assert all(link.startswith("#") for link in read.links) and len(read.links) > 10
    assert len(set(read.ids)) == len(read.ids)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)


def test_scores_are_those_computed_here(read, test_set):
    [(header, *rows)] = read.tables[("made-up, test1", "Scores")]
    assert header[1:4] == ["system", "seeds", "CCC"] and len(rows) == 9
    for dimension, name, seeds, ccc, deviation, rho, rmse, bias, ratio in rows:
        j, system = DIMENSIONS.index(dimension), test_set.systems[name]
        prediction, label = system.prediction[:, :, j], test_set.label[:, j]
        cccs = [metrics.ccc(seed, label) for seed in prediction]
        interval = estimate(system.prediction, test_set.label, test_set.speakers).interval[:, j]
        assert seeds == str(len(cccs))
        assert numbers(ccc) == pytest.approx([np.mean(cccs), *interval], abs=6e-4)
        assert numbers(deviation) == ([] if len(cccs) == 1 else pytest.approx([np.std(cccs, ddof=1)], abs=6e-4))
        errors = prediction - label
        expected = [
            np.mean([np.corrcoef(seed, label)[0, 1] for seed in prediction]),
            np.mean(np.sqrt(np.mean(errors**2, axis=1))),
            np.mean(errors),
            np.mean(prediction.var(axis=1) / label.var()),
        ]
        assert [numbers(cell)[0] for cell in (rho, rmse, bias, ratio)] == pytest.approx(expected, abs=6e-3)


def test_p_values_are_corrected_and_say_what_they_hold_for(read, test_set):
    [(_, *rows)] = read.tables[("made-up, test1", "Differences")]
    assert [row[:2] for row in rows] == [
        ["cts − ft", "other seeds, too"],
        ["teacher − ft", "these networks (the mean of ft's seeds)"],
    ]
    systems = {name: system.prediction for name, system in test_set.systems.items()}
    raw = [compare(systems[name], systems["ft"], test_set.label, test_set.speakers) for name in ("cts", "teacher")]
    p_values = np.array([of.p_value for of in raw])
    for row, of_row, p_of_row in zip(rows, raw, p_values, strict=True):
        for j, cell in enumerate(row[2:]):
            assert numbers(cell)[0] == pytest.approx(of_row.difference[j], abs=6e-4)
            rank = (p_values < p_of_row[j]).sum()
            least = p_of_row[j] * (p_values.size - rank)  # Holm's, before it is made monotone
            assert "p < 0.001" in cell if least < 5e-4 else numbers(cell)[-1] >= min(least, 1) - 6e-4


def test_groups_are_shown_with_their_size(read):
    [(_, *rows)] = read.tables[("made-up, test1", "By gender")]
    names = {row[0] for row in rows}
    assert names == {f"{gender}: 120 utterances, 6 known speakers" for gender in ("Female", "Male")}
    [(_, *rows)] = read.tables[("made-up, test1", "By speaker")]
    assert all("20 utterances" in row[2] for row in rows)


def test_the_condition_is_told_of_the_taught(read):
    [(_, *rows)] = read.tables[("made-up, test1", "Where teaching helps")]
    assert [row[:2] for row in rows] == [[dimension, "cts"] for dimension in DIMENSIONS]
    assert all(numbers(kept)[0] > numbers(left)[0] for _, _, kept, left, _ in rows)


def test_test_sets_stand_side_by_side(read):
    [(_, *rows)] = read.tables["Side by side"]
    assert [row[:2] for row in rows] == [
        *(["made-up, test1", name] for name in ("cts", "ft", "teacher")),
        ["their", "theirs"],
    ]
    assert all("RMSE" in cell for row in rows for cell in row[2:])


def test_a_stranger_has_no_part_that_nothing_is_known_of(page, read):
    parts = [heading[1] for heading in read.tables if isinstance(heading, tuple) and heading[0] == "their"]
    assert parts == ["Scores", "By gender", "By label"]
    text = page.read_text(encoding="utf-8")
    of_theirs = text[text.index("<h2>their</h2>") :]
    assert "Fewer than 10 speakers are known" in of_theirs and "Learning curves" not in of_theirs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], "nowhere.csv does not exist"),
        (["{study}/made-up", "--against", "ts"], "no system 'ts' to compare with; there are cts, ft, teacher"),
        (["{study}/made-up", "--out", "no/report.html"], "The folder no does not exist"),
        (["{study}/their.csv"], "line 2: v0 has no label there"),
    ],
)
def test_what_cant_be_done_is_one_sentence(study, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        main(["report", *(argument.format(study=study) for argument in arguments)])
    assert not list(tmp_path.iterdir())


def test_the_command_writes_where_it_says(study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(study / "their.csv"), "--labels", str(study / "labels.csv"), "--smallest", "50"]) == 0
    assert "Written: report.html" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


# ------------------------------------------------------------------ in a browser


def show(browser, page, width, **media):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media.get("media", ""), "features": features})
    browser.get(page.as_uri())


@pytest.fixture(autouse=True)
def as_it_was(request):
    yield
    if "browser" in request.fixturenames:
        browser = request.getfixturevalue("browser")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


BOXES = """
return [...document.querySelectorAll(arguments[0])].map(element => {
  const box = element.getBoundingClientRect(), of = element.ownerSVGElement?.getBoundingClientRect();
  const upright = !(element.getAttribute('transform') || '').startsWith('rotate(-90');
  return {left: box.left, right: box.right, top: box.top, line: upright ? box.height : box.width, inside:
    !of || (box.left > of.left - 2 && box.right < of.right + 2 && box.top > of.top - 2 && box.bottom < of.bottom + 2)};
})
"""


@pytest.mark.parametrize(("width", "abreast"), [(390, 1), (1440, 3)])
def test_in_a_browser_it_fits_and_can_be_read(browser, page, width, abreast):
    show(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    texts = browser.execute_script(BOXES, "figure svg text")
    assert len(texts) > 500 and all(text["inside"] for text in texts)
    assert all(9 <= text["line"] <= 24 for text in texts)  # pixels: legible, and none is broken
    words = browser.execute_script(BOXES, "h1, h2, h3, p, figcaption, nav a, .keys span")
    assert all(0 <= box["left"] and box["right"] <= width for box in words)
    panels = browser.execute_script(BOXES, "figure:first-of-type .panels svg")[:3]
    assert sum(panel["top"] == panels[0]["top"] for panel in panels) == abreast
    assert all(panel["right"] - panel["left"] > 280 for panel in panels)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def luminance(color):
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_words_stand_out_in_light_and_in_dark(browser, page, scheme):
    show(browser, page, 1440, scheme=scheme)
    style = "const of = getComputedStyle(document.querySelector(arguments[0])); return of[arguments[1]]"
    behind = luminance(browser.execute_script(style, "body", "backgroundColor"))
    assert (behind > 0.5) == (scheme == "light")
    for selector, property in (
        ("p", "color"),
        ("figcaption", "color"),
        ("td small", "color"),
        ("figure svg text", "fill"),
        ("nav a", "color"),
    ):
        in_front = luminance(browser.execute_script(style, selector, property))
        contrast = (max(behind, in_front) + 0.05) / (min(behind, in_front) + 0.05)
        assert contrast >= 4.5, f"{selector}: {contrast:.1f}"  # WCAG's AA


def test_in_a_browser_the_systems_colours_stand_out(browser, page):
    for scheme in ("light", "dark"):
        show(browser, page, 1440, scheme=scheme)
        script = """
        const probe = document.body.appendChild(document.createElement('i'));
        return ['--page', ...Array.from({length: 8}, (_, at) => `--s${at}`)].map(name => {
          probe.style.color = `var(${name})`; return getComputedStyle(probe).color; })
        """
        behind, *colors = map(luminance, browser.execute_script(script))
        for color in colors:
            assert (max(behind, color) + 0.05) / (min(behind, color) + 0.05) >= 3, scheme


def test_in_a_browser_print_is_dark_on_white_three_abreast(browser, page):
    show(browser, page, 720, scheme="dark", media="print")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert luminance(browser.execute_script(style, "body", "backgroundColor")) == 1
    assert browser.execute_script(style, "nav", "display") == "none"
    tops = {panel["top"] for panel in browser.execute_script(BOXES, "figure:first-of-type .panels svg")[:3]}
    assert len(tops) == 1
