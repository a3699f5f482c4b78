"""What people see first: README, pages, the files that code hosts and citation tools read."""

import ast
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

import ser_ts_lobes
from ser_ts_lobes.student.inference import EmotionRegressor
from tests.integration.programs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = ROOT / "docs" / "teacher_student.svg"


def read(*path):
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


def targets():
    return re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)


def test_the_readme_is_a_screen_and_a_half():
    text = read("README.md")
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1200


def test_the_readme_leads_to_all_pages():
    links = set(re.findall(r"\]\(([\w./-]+)", read("README.md")))
    assert {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")} <= links
    assert {"CONTRIBUTING.md", "CITATION.cff", "LICENSE"} <= links


def test_the_figure_is_small_in_both_colours_and_complete():
    text = FIGURE.read_text(encoding="utf-8")
    assert f"](docs/{FIGURE.name})" in read("README.md")
    assert len(text) < 10_000 and "prefers-color-scheme: dark" in text
    svg = ElementTree.fromstring(text)
    names = {name.rpartition("}")[2] for element in svg.iter() for name in element.attrib}
    links = [value for element in svg.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert links and all(link.startswith("#") for link in links) and "src" not in names
    words = " ".join("".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert all(word in words for word in ("Teacher", "Student", "audio", "transcript", "label"))
    assert svg.find("{http://www.w3.org/2000/svg}desc").text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_make_are_there(page):
    for target in re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(code_of(page))):
        assert target in targets(), f"{page.name} says `make {target}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_python_name_what_is_there(page):
    for source in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                exec(compile(ast.Module([node], []), page.name, "exec"))
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("student", "EmotionRegressor"):
                assert hasattr(EmotionRegressor, node.attr), f"{page.name}: {ast.unparse(node)}"


def code_of(page):
    """Give the blocks of code and the `code` between words."""
    text = page.read_text(encoding="utf-8")
    return [*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]


def test_help_names_all_targets():
    described = re.findall(r"^## make ([\w-]+)", read("Makefile"), re.MULTILINE)
    [phony] = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    assert {*described, "help"} == {*phony.split()} == {*targets()}


def test_what_the_fast_tests_leave_out_is_there():
    [names] = re.findall(r"^SLOW := ((?:.*\\\n)*.*)$", read("Makefile"), re.MULTILINE)
    names = names.replace("\\", "").split()
    assert len(names) > 5
    for name in names:
        assert list((ROOT / "tests" / "unit").rglob(name)), f"SLOW in the Makefile: no {name}"


def test_the_benchmarks_of_make_are_there():
    [names] = re.findall(r"^BENCH := (.+)$", read("Makefile"), re.MULTILINE)
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert set(names.split()) < programs
    assert all(f"`python -m benchmarks.{name}" in read("docs", "speed.md") for name in programs)


def test_citation_changelog_and_package_agree_on_the_release():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == ser_ts_lobes.__version__
    releases = re.findall(r"^## (\S+)(?: – (\d{4}-\d\d-\d\d))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert releases[0] == ("Unreleased", "")
    assert releases[1] == (citation["version"], citation["date-released"].isoformat())


def test_the_paper_is_cited_alike():
    [paper] = yaml.safe_load(read("CITATION.cff"))["references"]
    fields = dict(re.findall(r"^  (\w+) += \{(.+)\},$", read("README.md"), re.MULTILINE))
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert (paper["title"], " and ".join(authors)) == (fields["title"], fields["author"])
    assert (paper["collection-title"], str(paper["year"])) == (fields["booktitle"], fields["year"])
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in read("README.md")


def test_templates_of_issues_ask_for_the_log_of_the_environment():
    templates = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    fields = {}
    for path in templates:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert template["name"] and template["description"]
        fields[path.stem] = {field["id"]: field for field in template["body"]}
        assert "env.log" in fields[path.stem]["env_log"]["attributes"]["label"]
    assert fields["bug"]["env_log"]["validations"]["required"] is True


def test_the_workflow_and_the_hooks_call_what_everybody_calls():
    [job] = yaml.safe_load(read(".github", "workflows", "test.yml"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    [local] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    for hook in local["hooks"]:
        command = hook["entry"].removesuffix(" --force-exclude").removeprefix(".venv/bin/")
        assert f"\t$(BIN)/{command} .\n" in read("Makefile")
