"""Compose ``hparams/`` into the flat files of ``recipes/*/hparams/``.

To run: ``python tools/build_hparams.py`` (or ``make hparams``), and commit what it writes.

A flat file is the parts that its system names, then its corpus, then the system itself, then what is special to
that system on that corpus (``corpora/<corpus>-<system>.yaml``, if there is one), merged as text: a file is a sequence
of sections (a line ``# ----- Name``) of blocks (a top-level key with the comments above it and the indented lines
below it). A block replaces an earlier one of the same key where that stands, and inherits its comments if it has none
above it; a new one goes to the end of its section. Text, not parsed YAML, so that every comment arrives where it
belongs.
"""

import argparse
import re
from pathlib import Path

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.files import replacing

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("Run", "Data", "Training", "Model", "Optimization and logging")

_SECTION = re.compile(r"# -{5,} (.+)")
_KEY = re.compile(r"([A-Za-z_]\w*):")
_KEY_LINE = re.compile(r"^[A-Za-z_]", re.MULTILINE)


def read_blocks(text, where):
    r"""Split the text of a hparams file into blocks.

    Parameters
    ----------
    text : str
        The file, without the head of a system file.
    where : str
        The file's name, for error messages.

    Returns
    -------
    list[tuple[str, str, str]]
        Section, key and text of each block, in order.

    Raises
    ------
    InputError
        If a line stands outside of a section or of a block.

    Example
    -------
    >>> read_blocks("# ----- Run\n# why\nseed: 1\nopts:\n    a: 2\n", "base.yaml")
    [('Run', 'seed', '# why\nseed: 1'), ('Run', 'opts', 'opts:\n    a: 2')]
    """
    blocks, section, pending = [], None, []
    for number, line in enumerate(text.splitlines(), 1):
        heading, key = _SECTION.match(line), _KEY.match(line)
        if heading:
            section = heading[1]
            pending = []  # the head of a system file
            if section not in SECTIONS:
                raise InputError(f"{where}, line {number}: no section {section!r}; there are {', '.join(SECTIONS)}.")
        elif key:
            blocks.append((section, key[1], "\n".join([*pending, line])))
            pending = []
        elif line.startswith("#"):
            pending.append(line)
        elif line.startswith(" ") and blocks:
            blocks[-1] = (*blocks[-1][:2], f"{blocks[-1][2]}\n{line}")
        elif line:
            raise InputError(f"{where}, line {number}: expected a key, a comment or an indented line: {line!r}")
    if any(section is None for section, _, _ in blocks):
        raise InputError(f"{where}: a key stands before the first section line.")
    return blocks


def compose(corpus, system):
    """Compose the flat file of one system on one corpus.

    Parameters
    ----------
    corpus : str
        Stem of a file in ``hparams/corpora``.
    system : str
        Stem of a file in ``hparams/systems``; its first line names the parts, its next comments describe it.

    Returns
    -------
    str
        Text of the flat file.
    """
    head = _head(system)
    sources = [f"hparams/parts/{name}.yaml" for name in head[0].removeprefix("# parts: ").split()]
    sources += [f"hparams/corpora/{corpus}.yaml", f"hparams/systems/{system}.yaml"]
    own = f"hparams/corpora/{corpus}-{system}.yaml"
    sources += [own] if (ROOT / own).is_file() else []
    merged = {}
    for source in sources:
        for section, key, text in read_blocks((ROOT / source).read_text(encoding="utf-8"), source):
            if key in merged:
                section, earlier = merged[key]
                if not text.startswith("#"):
                    text = earlier[: _KEY_LINE.search(earlier).start()] + text
            merged[key] = (section, text)
    lines = [
        "# Written by `make hparams` from the files below: edit those, not this one.",
        *(f"#   {source}" for source in sources),
        "#",
        *head[1:],
        f"# On {corpus}. Every key can be overridden on the command line: --key=value.",
    ]
    return "\n".join([*lines, *lay_out(merged.values())]) + "\n"


def lay_out(blocks):
    r"""Lay blocks out under the headings of their sections.

    Parameters
    ----------
    blocks : Iterable[tuple[str, str]]
        Section and text of each block; those of a section in the order in which they are to stand.

    Returns
    -------
    list[str]
        Lines, an empty one before each heading. One-line blocks stand together, longer ones apart.

    Example
    -------
    >>> lay_out([("Run", "seed: 1"), ("Run", "opts:\n    a: 2")])[2:5]
    ['seed: 1', '', 'opts:\n    a: 2']
    """
    blocks, lines = list(blocks), []
    for name in SECTIONS:
        lines += ["", f"# {'-' * 70} {name}"]
        previous = ""
        for text in (text for section, text in blocks if section == name):
            lines += [""] if previous and "\n" in previous + text else []
            lines.append(text)
            previous = text
    return lines


def flat_files():
    """Compose all flat files.

    Returns
    -------
    dict[pathlib.Path, str]
        Text of each file of ``recipes/*/hparams/``.
    """
    systems = sorted(path.stem for path in (ROOT / "hparams" / "systems").glob("*.yaml"))
    # Of a recipe without emotion labels (LibriSpeech) there is no corpus file, nor of what is special to one system.
    recipes = {path.name for path in (ROOT / "recipes").iterdir()}
    corpora = sorted(recipes & {path.stem for path in (ROOT / "hparams" / "corpora").glob("*.yaml")})
    return {
        ROOT / "recipes" / corpus / "hparams" / f"{system}.yaml": compose(corpus, system)
        for corpus in corpora
        for system in systems
    }


def _head(system):
    """Comment lines at the start of a system file."""
    path = ROOT / "hparams" / "systems" / f"{system}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#") or _SECTION.match(line))]
    if not head or not head[0].startswith("# parts: "):
        raise InputError(f"{path}, line 1: expected '# parts: ' and the names of files in hparams/parts.")
    return head


def main():
    """Write the flat files, and remove those that no longer belong."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    files = flat_files()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for folder in {path.parent for path in files}:
        for path in set(folder.glob("*.yaml")) - set(files):
            path.unlink()
    print(f"wrote {len(files)} files")


if __name__ == "__main__":
    with plain_errors():
        main()
