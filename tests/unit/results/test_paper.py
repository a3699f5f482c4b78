"""The paper's figures as data, and which data they are shown beside."""

import csv
import re
from types import SimpleNamespace

import pytest

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.paper import figures_of_run, read_figures
from tests.integration.programs import ROOT

RECIPES = {name: ROOT / "recipes" / name for name in ("MSP-Podcast", "IEMOCAP")}
MSP_1_6 = {"train": 34280, "valid": 5958, "test": 10124}  # section 4.1
IEMOCAP = {"train": 3 * 10039, "valid": 10039, "test": 10039}


def test_the_recipes_hold_all_figures_of_the_paper(shared_folder):
    with open(shared_folder / "paper" / "tables.csv") as file:
        paper = [tuple(row.values()) for row in csv.DictReader(file)]
    ours = []
    for name, recipe in RECIPES.items():
        with open(recipe / "paper.csv") as file:
            for row in csv.DictReader(file):
                corpus = f"{name} {row['release']}".strip()
                split = row["split"] + (" (5 folds)" if name == "IEMOCAP" else "")
                place = (row["table"], row["row"], corpus, split, row["system"], row["statistic"])
                ours.append((*place, *(row[dimension] for dimension in DIMENSIONS)))
    assert len(paper) == 20 and sorted(ours) == sorted(paper)


def test_the_figures_belong_to_the_published_sizes():
    for name, sizes in (("MSP-Podcast", MSP_1_6), ("IEMOCAP", IEMOCAP)):
        figures = read_figures(RECIPES[name])
        assert figures and all(figure.sizes == sizes and figure.split in sizes for figure in figures)


@pytest.mark.parametrize(
    ("page", "recipe", "table"),
    [
        (ROOT / "docs" / "tables.md", "MSP-Podcast", "2"),
        (RECIPES["MSP-Podcast"] / "README.md", "MSP-Podcast", "2"),
        (RECIPES["IEMOCAP"] / "README.md", "IEMOCAP", "3"),
    ],
)
def test_a_page_quotes_the_figures(page, recipe, table):
    lines = page.read_text(encoding="utf-8").splitlines()
    [start] = [i for i, line in enumerate(lines) if line.startswith("| system") and f"(Table {table})" in line]
    column = cells_of(lines[start]).index(f"the paper's (Table {table})")
    quoted = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        quoted[cells_of(line)[0].strip("`")] = cells_of(line)[column]
    figures = {figure.system: short(figure.values) for figure in read_figures(RECIPES[recipe]) if figure.table == table}
    assert {system: cell for system, cell in quoted.items() if cell != "–"} == figures


def test_the_readme_quotes_table_1():
    text = (RECIPES["MSP-Podcast"] / "README.md").read_text(encoding="utf-8")
    ccc, pearson = (short(figure.values) for figure in read_figures(RECIPES["MSP-Podcast"]) if figure.table == "1")
    assert f"| CCC | {ccc} |" in text and f"| Pearson's ρ | {pearson} |" in text


def test_the_page_of_the_demo_tells_the_shares_of_the_gap():
    valence = {figure.system: figure.values[1] for figure in read_figures(RECIPES["MSP-Podcast"])}
    text = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    for system in ("ts", "cts"):
        share = (valence[system] - valence["ft"]) / (valence["teacher"] - valence["ft"])
        assert re.search(rf"^\| {system} \|.*\| {100 * share:.0f} % \|$", text, re.MULTILINE)


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def short(values):
    return " / ".join(f"{value:.3f}".lstrip("0") for value in values)


@pytest.mark.parametrize(
    ("sizes", "release", "belongs"),
    [
        (MSP_1_6, None, True),
        (MSP_1_6, "1.6", True),
        (MSP_1_6, 1.6, True),  # as YAML reads it
        (MSP_1_6, "1.8", False),
        ({**MSP_1_6, "test": 10123}, None, False),  # another corpus may have any size
        ({**MSP_1_6, "test": 10123}, 1.6, True),  # an utterance of that release could not be used
        ({**MSP_1_6, "train": 33938, "test": 10023}, "1.6", True),
        ({**MSP_1_6, "test": 10022}, "1.6", False),  # more than 1 %
        ({**MSP_1_6, "test": 10125}, "1.6", False),
        ({**MSP_1_6, "test": 10123}, "1.8", False),
        ({"train": 34280, "valid": 5958, "test1": 10124}, None, False),
        ({"train": 34280, "valid": 5958, "test1": 10124}, "1.6", False),
        ({**MSP_1_6, "test2": 10}, "1.6", False),
        ({"train": 800, "valid": 200, "test": 400}, None, False),
    ],
)
def test_figures_belong_to_one_release(sizes, release, belongs):
    assert {figure.belongs_to(sizes, release) for figure in read_figures(RECIPES["MSP-Podcast"])} == {belongs}


@pytest.mark.parametrize(
    ("sizes", "belongs"),
    [
        (IEMOCAP, True),
        ({"train": 24000, "valid": 8000, "test": 8000}, False),  # four folds
        ({"train": 6220, "valid": 1811, "test": 1819}, False),  # one
        ({**IEMOCAP, "test": 10038}, False),
    ],
)
def test_figures_of_iemocap_need_all_of_it(sizes, belongs):
    assert {figure.belongs_to(sizes) for figure in read_figures(RECIPES["IEMOCAP"])} == {belongs}


def test_a_teacher_is_compared_with_table_1_on_its_release_alone():
    manifests = {name: SimpleNamespace(utterances=range(size)) for name, size in MSP_1_6.items()}
    hparams = {"system": "teacher", "release": None}
    figures = figures_of_run(RECIPES["MSP-Podcast"], hparams, manifests)
    assert [figure.table for figure in figures] == ["1", "1", "2"]
    assert {figure.system for figure in figures} == {"teacher"}
    assert figures_of_run(RECIPES["MSP-Podcast"], hparams, {"unrated": manifests["test"], **manifests}) == figures
    assert not figures_of_run(RECIPES["MSP-Podcast"], hparams, {"test1": manifests["test"], **manifests})
    assert not figures_of_run(ROOT / "recipes" / "LibriSpeech", hparams, manifests)  # keeps none


def test_a_damaged_file_is_named_with_its_line(tmp_path):
    text = (RECIPES["IEMOCAP"] / "paper.csv").read_text()
    (tmp_path / "paper.csv").write_text(text.replace("0.582", "O.582"))
    with pytest.raises(InputError, match=r"paper\.csv, line 6: .*'O\.582'; give sizes as whole numbers"):
        read_figures(tmp_path)


def test_the_page_of_the_method_names_what_is_there():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/.-]+\.(?:py|yaml|csv))(?:: ([\w, ]+))?`", text)
    assert len(places) > 40
    for path, names in places:
        if "/" in path:
            source = (ROOT / path).read_text(encoding="utf-8")
            for name in filter(None, names.split(", ")):
                start = rf"^{name}:" if path.endswith(".yaml") else rf"^ *(def |class |){name}\b"
                assert re.search(start, source, re.MULTILINE), f"{path} has no {name}"


def test_the_page_of_the_method_cites_all_equations_and_tables():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert all(f"(Eq. {number})" in text for number in range(1, 9))
    assert all(f"Table {number}" in text for number in range(1, 4))
    assert all(f"\n## {section} " in text for section in ("3.1", "3.2", "4.1", "4.2", "4.3"))
