"""Make .venv with everything that the recipes, the demonstration, the documentation and the tests need.

    python3 tools/set_up.py        (the first thing that any `make` target does)

What is already there is kept, so a set-up that was cut short goes on where it stopped. Versions are those of
tools/constraints.txt. torch and torchaudio come from pip's usual index, where Linux gets the CUDA build. For
another build, set TORCH_INDEX_URL to the address of PyTorch's own index for CPU or for a CUDA version (and
`make clean` first if one is already installed). Only the standard library is used: nothing else is there yet.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)  # of the versions in constraints.txt, and in setup.py

# Run in the new environment. Prints what `fit_torchaudio` decides on. It catches only a failure to load the
# extension of torchaudio with a CPU build of torch: any other error ends it with its own traceback.
PROBE = """
import importlib.util, json, os, torch
folder = importlib.util.find_spec("torchaudio").submodule_search_locations[0]
libraries = os.path.join(os.path.realpath(folder), "lib")
accelerated = bool(torch.version.cuda or torch.version.hip)
loads = True
try:
    import torchaudio
except OSError as error:
    if accelerated or libraries not in str(error):
        raise
    loads = False
print(json.dumps({"libraries": libraries, "accelerated": accelerated, "loads": loads}))
"""


def main():
    """Make or complete .venv in the repository's root."""
    check_python(sys.version_info)
    python = make_venv(ROOT / ".venv")
    for arguments in pip_steps(os.environ.get("TORCH_INDEX_URL")):
        pip_install(python, *arguments)
    fit_torchaudio(python)


def check_python(version):
    """End the program if Python `version` (major, minor, ...) is older than the pinned packages allow."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        needed, this = (".".join(map(str, numbers)) for numbers in (OLDEST_PYTHON, version[:2]))
        sys.exit(f"error: Python {needed} or newer is needed, this is {this}: try `make PYTHON=/path/to/python3`.")


def make_venv(folder):
    """Make the virtual environment `folder`, or keep it if it works; return the path of its Python."""
    python = folder / "bin" / "python"
    if not is_usable(python):
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
    return python


def is_usable(python):
    """Tell whether `python` starts, is new enough and has pip."""
    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return python.exists() and subprocess.run([str(python), "-I", "-c", check], capture_output=True).returncode == 0


def pip_steps(torch_index_url=None):
    """List the arguments of each `pip install`, in order.

    torch and torchaudio go first and without dependencies: PyTorch's own indexes hold few versions of those,
    so they come from the usual index, with everything else and for the torch that is there by then.

    Example
    -------
    >>> pip_steps("address/of/a/CPU/index")[0]
    ['--no-deps', '--index-url', 'address/of/a/CPU/index', 'torch', 'torchaudio']
    """
    index = ["--index-url", torch_index_url] if torch_index_url else []
    return [["--no-deps", *index, "torch", "torchaudio"], ["-e", ".[app,attn,demo,dev,docs,onnx,slurm,vad]"]]


def pip_install(python, *arguments):
    """Install with the pinned versions; what is there in the right version stays."""
    run([str(python), "-m", "pip", "install", "-c", "tools/constraints.txt", *arguments])


def run(command):
    """Run a command in the repository's root, its output shown; end the program if it fails."""
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(
            f"error: `{shlex.join(command)}` failed for the reason above;"
            " mend that (network? disk space?) and call it again, it goes on from here."
        )


def fit_torchaudio(python):
    """Set torchaudio's compiled extension aside where a CPU build of torch cannot load it.

    The usual wheel of torchaudio is linked to CUDA's libraries, and `import torchaudio` fails without them,
    although it needs its extension only for a few functions that nothing here uses (forced alignment, RNN-T
    loss) and does without it when the files are absent. They are put back for a torch with CUDA or ROCm.

    Parameters
    ----------
    python : pathlib.Path
        The interpreter whose torch and torchaudio are looked at.
    """
    found = probe(python)
    libraries = Path(found["libraries"])
    aside = libraries / "set_aside"
    if not found["loads"]:
        aside.mkdir(exist_ok=True)
        move_libraries(libraries, aside)
        print(f"torchaudio's extension needs CUDA, which this build of torch lacks: set aside in {aside}")
    elif found["accelerated"] and aside.is_dir():
        if not any(libraries.glob("*.so")):  # else torchaudio was installed again since, with newer files
            move_libraries(aside, libraries)
            print(f"torchaudio's extension fits this build of torch: put back in {libraries}")
        shutil.rmtree(aside)
    else:
        return
    probe(python)


def probe(python):
    """Import torch and torchaudio in `python` and return what `PROBE` says; end the program if it cannot."""
    result = subprocess.run([str(python), "-I", "-c", PROBE], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"error: torch and torchaudio can't be imported by {python} for the reason above.")
    return json.loads(result.stdout)


def move_libraries(source, target):
    """Move the shared libraries of one folder to another."""
    for library in source.glob("*.so"):
        os.replace(library, target / library.name)


if __name__ == "__main__":
    main()
