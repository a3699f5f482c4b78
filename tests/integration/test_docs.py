"""The documentation, built as `make docs` builds it."""

import pkgutil
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

import ser_ts_lobes
from tests.integration.programs import ROOT, run


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    [options] = re.findall(
        r"^\t\$\(BIN\)/python (-m sphinx .*) build/docs$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert "-W" in options.split()  # a warning is an error
    folder = tmp_path_factory.mktemp("docs")
    run(*options.split(), folder)
    return folder


class Page(HTMLParser):
    """What a page is called, refers to, and can be referred to by."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched, self.figures = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag in ("script", "img", "iframe", "source") and attrs.get("src"):
            self.fetched.append(attrs["src"])
        elif tag == "link" and attrs.get("rel") != "canonical":
            self.fetched.append(attrs["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_all_modules_are_in_the_reference(site):
    names = [module.name for module in pkgutil.walk_packages(ser_ts_lobes.__path__, "ser_ts_lobes.")]
    assert len(names) > 30
    for name in names:
        assert (site / "docs" / "api" / f"{name}.html").is_file(), name


@pytest.mark.parametrize("name", ["training.ccc_loss", "inference.EmotionRegressor"])
def test_names_are_documented_once(site, name):
    module = name.split(".")[0]
    text = (site / "docs" / "api" / f"ser_ts_lobes.{module}.html").read_text(encoding="utf-8")
    assert f'id="module-ser_ts_lobes.{module}"' in text and f'id="ser_ts_lobes.{name}"' not in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("training.losses.ccc_loss", "with population moments over the batch"),
        ("student.inference.EmotionRegressor.predict_file", "Predict one audio file"),
    ],
)
def test_docstrings_are_in_the_reference(site, name, sentence):
    module = ".".join(name.split(".")[:2])
    text = (site / "docs" / "api" / f"ser_ts_lobes.{module}.html").read_text(encoding="utf-8")
    assert f'id="ser_ts_lobes.{name}"' in text and sentence in text and "Parameters" in text


def test_all_links_lead_somewhere(site, pages):
    seen = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.relative_to(site)} links to {link}"
            seen += 1
    assert seen > 1000


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for path, page in pages.items():
        for address in page.fetched:
            assert not urlsplit(address).netloc, f"{path.relative_to(site)} fetches {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path.name


# A page of sentences, one of wide tables, one of code.
@pytest.mark.parametrize("name", ["index", "docs/tables", "docs/api/ser_ts_lobes.training.losses"])
def test_in_a_browser_a_phone_need_not_scroll_sideways(browser, site, name):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get((site / f"{name}.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        headline = browser.find_element("css selector", "article h1")
        assert headline.is_displayed() and 20 < headline.rect["width"] <= 390
        assert headline.text.startswith("ser_ts_lobes" if name != "docs/tables" else "Systems and tables")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_in_a_browser_the_figure_is_seen(browser, site):
    browser.get((site / "index.html").as_uri())
    [figure] = browser.find_elements("css selector", "article img")
    assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth", figure) > 300
    assert 300 < figure.rect["width"] and figure.get_attribute("alt").startswith("A teacher hears and reads")
