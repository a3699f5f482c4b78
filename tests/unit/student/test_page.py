"""The page in the browser: what it draws, and what a browser shows of it."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import gradio
import numpy as np
import pytest
import soundfile

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.inference import Timeline
from ser_ts_lobes.student.page import _ask, _limits, make_page, remove_cut_off, render, serve
from ser_ts_lobes.student.single_file import compose
from ser_ts_lobes.student.space import write_space
from tests.integration.programs import ROOT
from tools.load import Client


@pytest.fixture(autouse=True, scope="module")
def servers():
    yield
    gradio.close_all()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    swelling = np.random.default_rng(0).normal(0, 0.05, (7 * 22050, 2)) * np.linspace(0.1, 3, 7 * 22050)[:, None]
    soundfile.write(path, swelling, 22050)
    return path


# ------------------------------------------------------------------ what is drawn


def parse(html):
    return ElementTree.fromstring(html.replace("&nbsp;", " "))


def texts(html, css_class):
    return [text.text for text in parse(html).iter("text") if text.get("class") == css_class]


def find(html, tag, **attributes):
    return [element for element in parse(html).iter(tag) if all(element.get(k) == v for k, v in attributes.items())]


def test_the_dials_show_the_three_values(student):
    html = render(student.config, (2.345, 6.5, 4.0))
    assert texts(html, "value") == ["2.35", "6.50", "4.00"]
    assert texts(html, "name") == list(DIMENSIONS)
    assert texts(html, "ends") == ["1", "7"] * 3


def test_the_dot_in_the_plane_is_at_valence_and_activation(student):
    html = render(student.config, (1.0, 7.0, 4.0))
    [frame] = find(html, "rect", **{"class": "line"})
    [dot] = find(html, "circle", fill="#d6336c")
    left, top, size = (float(frame.get(name)) for name in ("x", "y", "width"))
    assert float(dot.get("cx")) == pytest.approx(left + size)  # valence 7: right
    assert float(dot.get("cy")) == pytest.approx(top + size)  # activation 1: bottom


def test_the_plane_shades_the_cells_of_the_training_labels(student):
    config = {**student.config, "label_range": [1, 7]}
    edges = [1.0, 4.0, 7.0]
    # 16 labels of low valence and high activation, 4 of high valence and low activation
    config["label_histogram"] = {"valence_edges": edges, "activation_edges": edges, "counts": [[0, 16], [4, 0]]}
    html = render(config)
    [frame] = find(html, "rect", **{"class": "line"})
    cells = {
        (float(cell.get("x")) > float(frame.get("x")), float(cell.get("y")) > float(frame.get("y"))): cell
        for cell in find(html, "rect", fill="#868e96")
    }
    assert set(cells) == {(False, False), (True, True)}  # (right, lower)
    strong, weak = (float(cells[place].get("fill-opacity")) for place in ((False, False), (True, True)))
    assert strong == pytest.approx(0.8) and weak == pytest.approx(0.08 + 0.72 / 2)
    assert "20 utterances" in html


def test_values_beyond_the_scale_stay_on_the_page(student):
    html = render(
        student.config, (-3.0, 99.0, 4.0), Timeline(np.arange(2.0), np.arange(2.0) + 4, np.full((2, 3), 50.0))
    )
    assert texts(html, "value") == ["-3.00", "99.00", "4.00"]
    for svg in find(html, "svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.get("cx")) <= width and 0 <= float(circle.get("cy")) <= height
        for line in svg.iter("polyline"):
            for point in line.get("points").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width and 0 <= y <= height


def test_the_timeline_has_a_line_a_dimension_with_a_point_a_window(student):
    values = np.array([[1.0, 4.0, 7.0], [7.0, 4.0, 1.0], [4.0, 4.0, 4.0]])
    html = render(student.config, values[0], Timeline(np.arange(3.0), np.arange(3.0) + 4, values))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in find(html, "polyline")
    ]
    assert len(lines) == 3 and all(len(line) == 3 for line in lines)
    (first, second, third), level, _ = lines
    assert first[1] > third[1] > second[1]  # up is more
    assert len({y for _, y in level}) == 1
    assert second[0] - first[0] == pytest.approx(third[0] - second[0])


def test_a_recording_of_one_window_has_no_timeline(student):
    html = render(student.config, (4, 4, 4), Timeline(np.zeros(1), np.ones(1), np.full((1, 3), 4.0)))
    assert not find(html, "polyline") and "no longer than one window" in html


def test_where_nobody_speaks_the_timeline_has_a_gap(student):
    values = np.full((6, 3), 4.0)
    values[[1, 3, 5]] = np.nan
    html = render(student.config, (4, 4, 4), Timeline(np.arange(6.0), np.arange(6.0) + 4, values))
    lines = [line.get("points").split() for line in find(html, "polyline")]
    assert len(lines) == 9 and {len(line) for line in lines} == {2} and {len(set(line)) for line in lines} == {1}
    silent = render(student.config, (4, 4, 4), Timeline(np.arange(6.0), np.arange(6.0) + 4, np.full((6, 3), np.nan)))
    assert not find(silent, "polyline") and "Nobody speaks in it." in silent


def test_the_mean_of_a_long_recording_is_that_of_the_words(student, tmp_path, spoken, monkeypatch):
    monkeypatch.setattr(student, "max_clip_s", 4.0)
    padded = np.concatenate([spoken, np.zeros(10 * 16000)])
    for name, samples in (("words", padded), ("silence", np.zeros_like(padded))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    timeline = student.predict_timeline(tmp_path / "words.wav", vad=True)
    heard = np.isfinite(timeline.values[:, 0])
    assert 0 < heard.sum() < len(heard)
    emotion, _, note = _ask(student, str(tmp_path / "words.wav"))
    np.testing.assert_allclose(emotion, timeline.values[heard].mean(axis=0))
    assert "the mean of the timeline below" in note
    with pytest.raises(InputError, match="Nobody speaks in"):
        _ask(student, str(tmp_path / "silence.wav"))


def test_what_a_file_is_called_is_not_html(student):
    html = render(student.config, problem="<img src=x onerror=alert(1)>.wav can't be used")
    assert "<img" not in html and "&lt;img" in html
    assert texts(html, "value") == ["–"] * 3


@pytest.mark.parametrize(
    ("cccs", "said"),
    [
        ((0.75, 0.72, 0.5), "test1 activation 0.75, valence 0.72, dominance 0.50. Trust dominance least"),
        ((0.75, 0.4, 0.5), "dominance 0.50. Trust valence least"),
        (None, "not measured. Valence lives in the words"),
    ],
)
def test_it_says_what_to_trust_least_as_the_scores_do(student, monkeypatch, cccs, said):
    scores = cccs and {name: {"ccc": ccc} for name, ccc in zip(DIMENSIONS, cccs, strict=True)}
    monkeypatch.setitem(student.config, "test", {"test1": scores} if scores else {})
    assert said in _limits(student)


def test_it_says_whether_the_student_reads(student, monkeypatch):
    assert "and the student does not read.\n" in _limits(student)
    monkeypatch.setitem(student.config, "encoder", {**student.config["encoder"], "reader": {}})
    assert "and the student reads only the words that it hears itself.\n" in _limits(student)


# ------------------------------------------------------------------ the server


def test_it_tells_nobody_and_is_seen_from_this_machine_alone(student):
    assert make_page(student).analytics_enabled is False
    address = urlsplit(serve(student, block=False))
    assert address.hostname == "127.0.0.1"
    # Another address of this machine: a server that listens on all would answer.
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", address.port), timeout=5):
        pass


def test_a_taken_port_is_one_sentence(student):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}.*choose another --port"):
            serve(student, port=port, block=False)


@pytest.fixture
def served(student, tmp_path, monkeypatch):
    """Give a client of the page, and the folder of its uploads."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr("ser_ts_lobes.student.page.MAX_UPLOAD", "3mb")
    return Client(urlsplit(serve(student, block=False)).port), tmp_path / "uploads"


def test_clients_at_once_are_all_heard(served, student, clip):
    client, _ = served
    with ThreadPoolExecutor(3) as pool:
        pages = list(pool.map(client.hear, [clip.read_bytes()] * 3))
    emotion = student.predict_file(clip)
    assert [texts(page, "value") for page in pages] == [[f"{value:.2f}" for value in emotion]] * 3


def test_an_upload_that_is_cut_off_leaves_nothing_and_hinders_nobody(served, clip, capfd):
    client, uploads = served
    client.upload_zeros(2**20, 2**21)
    assert texts(client.hear(clip.read_bytes()), "value") != ["–"] * 3
    [left] = [path for path in uploads.iterdir() if path.is_file()]
    remove_cut_off(uploads, idle_s=600)
    assert left.is_file()  # it may be going on
    remove_cut_off(uploads, idle_s=0)
    assert not left.exists() and any(uploads.iterdir())  # what is whole stays until its time
    assert "Traceback" not in capfd.readouterr().err


def test_too_large_an_upload_is_refused_before_it_is_there(served, clip):
    client, uploads = served
    sent, answer = client.upload_zeros(2**28, 2**28)
    assert "413" in answer and sent < 2**27
    assert not [path for path in uploads.iterdir() if path.is_file()]
    assert texts(client.hear(clip.read_bytes()), "value") != ["–"] * 3


def test_uploads_are_kept_in_a_folder_that_goes_with_the_program():
    program = "from ser_ts_lobes.student.page import _own_upload_folder; print(_own_upload_folder())"
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert "ser-ts-uploads-" in said.stdout and not Path(said.stdout.strip()).exists()


def test_the_command_passes_its_options_on(student_folder, monkeypatch):
    served = []
    monkeypatch.setattr("ser_ts_lobes.student.page.serve", lambda student, **options: served.append((student, options)))
    assert main(["demo-app", str(student_folder), "--port", "7999", "--host", "0.0.0.0"]) == 0
    [(student, options)] = served
    assert student.config["system"] == "ft"
    assert options == {"host": "0.0.0.0", "port": 7999, "share": False}


def test_without_gradio_the_command_says_how_to_get_it(student_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "ser_ts_lobes.student.page")
    monkeypatch.delattr("ser_ts_lobes.student.page")
    with pytest.raises(SystemExit, match=r"needs gradio.* -m pip install -e '.*\[app\]'"):
        main(["demo-app", str(student_folder)])


# ------------------------------------------------------------------ a Space


@pytest.fixture(scope="module")
def space(student_folder, tmp_path_factory):
    space = tmp_path_factory.mktemp("space") / "space"
    shutil.copytree(student_folder, space)
    (space / "custom_interface.py").write_text(
        compose("ser_ts_lobes.student.inference", "EmotionRegressor", "A student.")
    )
    write_space(space)
    return space


_OPEN_WITHOUT_PACKAGE = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ser_ts_lobes":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
app = runpy.run_path(sys.argv[1] + "/app.py")
student = app["EmotionRegressor"].from_pretrained(sys.argv[1])
assert type(student).__module__ == "custom_interface", type(student)
assert "How does this voice sound?" in str(app["make_page"](student).get_config_file())
"""


def test_the_page_opens_in_an_exported_folder_without_this_package(space):
    subprocess.run([sys.executable, "-I", "-c", _OPEN_WITHOUT_PACKAGE, str(space)], check=True)


def test_the_requirements_are_what_the_folder_imports_in_the_versions_of_setup_py(space):
    imported = set()
    for name in ("app.py", "custom_interface.py"):
        for node in ast.walk(ast.parse((space / name).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    lines = (space / "requirements.txt").read_text().split()
    assert {re.split("[<>=]", line)[0].replace("-", "_") for line in lines} == (
        imported - set(sys.stdlib_module_names) - {"custom_interface", "ser_ts_lobes"}
    )
    setup = (ROOT / "setup.py").read_text()
    assert [line for line in lines if f'"{line}"' not in setup] == []


# ------------------------------------------------------------------ in a browser


def wait_for(browser, condition):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 120, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def shown(browser, css):
    return [element.text for element in browser.find_elements("css selector", css)]


def upload(browser, path):
    [field] = wait_for(browser, lambda browser: browser.find_elements("css selector", "input[type=file]"))
    field.send_keys(str(path))


def test_in_a_browser_a_clip_shows_what_predict_file_says(browser, student, clip):
    browser.get(serve(student, block=False))
    upload(browser, clip)
    wait_for(browser, lambda browser: "–" not in (shown(browser, ".dials .value") or ["–"]))
    emotion = student.predict_file(clip)
    assert shown(browser, ".dials .name") == list(DIMENSIONS)
    assert shown(browser, ".dials .value") == [f"{value:.2f}" for value in emotion]
    assert "Nobody speaks in it." in browser.find_element("css selector", ".below").text  # it is a tone
    plane = browser.find_element("css selector", ".below svg").get_attribute("aria-label")
    assert f"valence {emotion.valence:.2f}, activation {emotion.activation:.2f}" in plane
    assert "7.0 s" in browser.find_element("css selector", ".ser > p").text
    assert "CCC on its test sets" in browser.find_element("tag name", "body").text
    addresses = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(addresses) > 5
    assert {urlsplit(address).hostname for address in addresses} - {None, "127.0.0.1"} == set()


def test_in_a_browser_a_bad_file_is_one_sentence(browser, student, tmp_path):
    (tmp_path / "notes.wav").write_text("not audio")
    browser.get(serve(student, block=False))
    upload(browser, tmp_path / "notes.wav")
    [sentence] = wait_for(browser, lambda browser: shown(browser, ".problem"))
    assert re.fullmatch(r"The audio file notes\.wav can't be used .*\.", sentence)
    assert shown(browser, ".dials .value") == ["–"] * 3


def test_in_a_browser_a_phone_need_not_scroll_sideways(browser, student, clip):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get(serve(student, block=False))
        upload(browser, clip)
        wait_for(browser, lambda browser: "–" not in (shown(browser, ".dials .value") or ["–"]))
        widths = browser.execute_script(
            "return [...document.querySelectorAll('.ser, .ser *')].map(e => e.getBoundingClientRect().right)"
        )
        assert 300 < max(widths) <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
