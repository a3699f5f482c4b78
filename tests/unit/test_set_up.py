import importlib.metadata
import re
import shutil
import sys
import tomllib
import venv

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import set_up

# As in the real ones, torchaudio loads its libraries through torch, whose CUDA build brings what they need.
TORCH = """
import ctypes
from types import SimpleNamespace

version = SimpleNamespace(cuda={cuda!r}, hip={hip!r})

def load_library(path):
    if version.cuda or version.hip:
        return
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise OSError(f"Could not load this library: {{path}}") from error
"""
TORCHAUDIO = """
from pathlib import Path
import torch

for library in Path(__file__).parent.joinpath("lib").glob("*.so"):
    torch.load_library(library)
"""

ACCELERATED = pytest.mark.parametrize("build", [{"cuda": "13.0"}, {"hip": "7.2.1"}])


class Environment:
    """A virtual environment that holds nothing but small modules named torch and torchaudio."""

    def __init__(self, folder):
        venv.create(folder)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.resolve().glob("lib/python*/site-packages"))
        self.library = self.packages / "torchaudio" / "lib" / "_torchaudio.so"
        self.aside = self.library.parent / "set_aside" / self.library.name
        self.library.parent.mkdir(parents=True)
        self.library.write_bytes(b"no library that this machine can load")
        self.install_torch()
        self.install_torchaudio(TORCHAUDIO)

    def install_torch(self, cuda=None, hip=None):
        (self.packages / "torch.py").write_text(TORCH.format(cuda=cuda, hip=hip))

    def install_torchaudio(self, source):
        (self.packages / "torchaudio" / "__init__.py").write_text(source)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "venv")


@pytest.fixture
def pins():
    lines = (set_up.ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin.specifier for pin in pins}


def test_extension_is_set_aside_for_a_cpu_torch(environment, capsys):
    set_up.fit_torchaudio(environment.python)
    assert environment.aside.exists() and not environment.library.exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"which this build of torch lacks: set aside in {environment.aside.parent}")


def test_second_call_changes_and_says_nothing(environment, capsys):
    set_up.fit_torchaudio(environment.python)
    capsys.readouterr()
    set_up.fit_torchaudio(environment.python)
    assert environment.aside.exists() and not environment.library.exists()
    assert capsys.readouterr().out == ""


@ACCELERATED
def test_extension_is_left_alone_for_an_accelerated_torch(environment, build):
    environment.install_torch(**build)
    set_up.fit_torchaudio(environment.python)
    assert environment.library.exists() and not environment.aside.parent.exists()


@ACCELERATED
def test_extension_is_put_back_for_an_accelerated_torch(environment, build):
    set_up.fit_torchaudio(environment.python)
    environment.install_torch(**build)
    set_up.fit_torchaudio(environment.python)
    assert environment.library.exists() and not environment.aside.parent.exists()


def test_newly_installed_extension_wins_over_the_one_set_aside(environment):
    set_up.fit_torchaudio(environment.python)
    environment.library.write_bytes(b"newer")
    environment.install_torch(cuda="13.0")
    set_up.fit_torchaudio(environment.python)
    assert environment.library.read_bytes() == b"newer" and not environment.aside.parent.exists()


@pytest.mark.parametrize(
    "source",
    [
        "import no_such_module",
        "open('/no/such/file')",  # an OSError too
        "raise ImportError('undefined symbol in {library}')",  # names the extension, but isn't an OSError
    ],
)
def test_other_import_errors_are_shown_as_they_are(environment, capfd, source):
    environment.install_torchaudio(source.format(library=environment.library))
    with pytest.raises(SystemExit, match="torch and torchaudio can't be imported"):
        set_up.fit_torchaudio(environment.python)
    assert "Traceback" in capfd.readouterr().err
    assert environment.library.exists()


def test_extension_that_fails_with_a_cuda_torch_is_shown_as_it_is(environment, capfd):
    environment.install_torch(cuda="13.0")
    environment.install_torchaudio(f"raise OSError('Could not load this library: {environment.library}')")
    with pytest.raises(SystemExit, match="torch and torchaudio can't be imported"):
        set_up.fit_torchaudio(environment.python)
    assert "Could not load this library" in capfd.readouterr().err
    assert environment.library.exists()


def test_broken_environment_is_made_again_and_a_working_one_kept(tmp_path):
    folder = tmp_path / "venv"
    python = set_up.make_venv(folder)
    assert set_up.is_usable(python)
    (folder / "mine").touch()
    set_up.make_venv(folder)
    assert (folder / "mine").exists()

    shutil.rmtree(next(folder.glob("lib/python*/site-packages/pip")))  # as a set-up cut short leaves it
    set_up.make_venv(folder)
    assert set_up.is_usable(python) and not (folder / "mine").exists()


def test_old_python_is_named():
    set_up.check_python(sys.version_info)
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed, this is 3\.9"):
        set_up.check_python((3, 9, 18, "final", 0))


def test_the_oldest_python_is_the_same_everywhere():
    oldest = ".".join(map(str, set_up.OLDEST_PYTHON))
    assert f'python_requires=">={oldest}"' in (set_up.ROOT / "setup.py").read_text()
    settings = tomllib.loads((set_up.ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_all_extras_are_installed():
    [extras] = re.findall(r"extras_require=\{(.*?)\n    \}", (set_up.ROOT / "setup.py").read_text(), re.DOTALL)
    names = re.findall(r'^        "(\w+)":', extras, re.MULTILINE)
    assert "docs" in names
    assert set_up.pip_steps()[-1] == ["-e", f".[{','.join(names)}]"]
    assert f".[{','.join(names)}]" in (set_up.ROOT / "tools" / "constraints.txt").read_text()


def test_failing_pip_command_is_named(capfd):
    with pytest.raises(SystemExit, match="-m pip install -c tools/constraints.txt ./no_such_folder"):
        set_up.pip_install(sys.executable, "./no_such_folder")
    assert "no_such_folder" in capfd.readouterr().err


def test_index_url_is_for_torch_only():
    torch_step, project_step = set_up.pip_steps("address/of/an/index")
    assert torch_step[-4:] == ["--index-url", "address/of/an/index", "torch", "torchaudio"]
    assert "--index-url" not in project_step
    assert all("--index-url" not in step for step in set_up.pip_steps())


def test_pins_are_exact_and_fit_every_build_of_torch(pins):
    for name, specifier in pins.items():
        (pin,) = specifier
        assert pin.operator == "==" and Version(pin.version).local is None, f"{name}{specifier}"
        assert not name.startswith(("cuda-", "nvidia-", "triton")), name


def test_pins_are_what_is_installed(pins):
    installed = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    wrong = {name: installed[name] for name in pins if name in installed and installed[name] not in pins[name]}
    assert not wrong


def test_every_requirement_of_the_project_is_pinned(pins):
    for requirement in map(Requirement, importlib.metadata.requires("ser_ts_lobes")):
        (pin,) = pins[canonicalize_name(requirement.name)]
        assert pin.version in requirement.specifier, requirement
