"""What goes to the Hugging Face Hub, and what becomes of an upload that can't be."""

import sys
from pathlib import Path

import huggingface_hub
import pytest

from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.hub import push


class FakeApi:
    calls = []

    def create_repo(self, *arguments, **options):
        self.calls.append(("create", arguments, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", (), options))


@pytest.fixture
def api(monkeypatch):
    FakeApi.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi


def test_push_only_lists_the_files_unless_told_yes(student_folder, api, capsys):
    assert main(["push", str(student_folder), "someone/student"]) == 0
    output = capsys.readouterr().out
    size = Path(student_folder, "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in output and "Nothing was sent" in output
    assert api.calls == []


def test_push_sends_what_it_lists(student_folder, api, capsys):
    student_folder = Path(student_folder)
    (student_folder / ".secret").write_text("token")
    (student_folder / "__pycache__").mkdir(exist_ok=True)
    (student_folder / "__pycache__" / "custom_interface.pyc").write_bytes(b"")
    main(["push", str(student_folder), "someone/student", "--private", "--yes"])
    (student_folder / ".secret").unlink()
    (create, name, create_options), (upload, _, options) = api.calls
    assert (create, name, create_options) == ("create", ("someone/student",), {"private": True, "exist_ok": True})
    assert upload == "upload" and options["repo_id"] == "someone/student"
    listed = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert options["allow_patterns"] == listed == sorted(listed)
    assert listed == ["config.json", "model.safetensors"]


def test_push_refuses_what_is_no_student(tmp_path):
    with pytest.raises(InputError, match="does not exist: a student is a folder"):
        push(tmp_path, "someone/student", yes=True)


@pytest.mark.parametrize("yes", [False, True])
@pytest.mark.parametrize("name", ["ab", "a/b/c"])
def test_push_refuses_a_name_before_it_lists_a_file(student_folder, api, capsys, name, yes):
    with pytest.raises(InputError, match=f"^'{name}' is no name of a repository .*: give user/name.$"):
        push(student_folder, name, yes=yes)
    assert capsys.readouterr().out == "" and api.calls == []


def http_error():
    http = sys.modules[type(huggingface_hub.get_session()).__module__.partition(".")[0]]
    return http.ConnectError("no way there")


@pytest.mark.parametrize("make_error", [http_error, lambda: OSError("no way there")])
def test_push_says_why_nothing_was_sent(student_folder, api, monkeypatch, make_error):
    def create_repo(*_, **__):
        raise make_error()

    monkeypatch.setattr(api, "create_repo", create_repo)
    with pytest.raises(InputError, match=r"The upload to a/b failed \(no way there\): .*hf auth login"):
        push(student_folder, "a/b", yes=True)
