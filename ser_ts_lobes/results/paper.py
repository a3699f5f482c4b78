"""The paper's figures, which a recipe keeps as data: those that belong to what was trained and tested here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import UNRATED
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import read_rows

if TYPE_CHECKING:
    from ser_ts_lobes.data.manifests import Manifest

_SPLITS = ("train", "valid", "test")
_COLUMNS = ("table", "row", "release", *_SPLITS, "split", "system", "statistic", *DIMENSIONS)
# The share of a split that may have been unusable, if the release was named and so checked when it was prepared.
_UNUSABLE = 0.01


@dataclass(frozen=True)
class Figure:
    """A row of one of the paper's tables.

    Attributes
    ----------
    table, row
        Where it stands in the paper; a table of one system has no row numbers.
    release
        Of the corpus; empty for a corpus of one release.
    sizes
        Utterances of the splits of that release, added up over its folds.
    split
        The one it was measured on.
    system
        Name of our hparams file.
    statistic
        ``ccc`` or ``pearson``.
    values
        In the order of `ser_ts_lobes.DIMENSIONS`.
    """

    table: str
    row: str
    release: str
    sizes: dict[str, int]
    split: str
    system: str
    statistic: str
    values: tuple[float, ...]

    def belongs_to(self, sizes: dict[str, int], release: str | float | None = None) -> bool:
        """Say whether these are the data that it was measured on, as far as can be told from their sizes.

        Parameters
        ----------
        sizes
            Utterances of all splits, added up over all folds.
        release
            The one that preparation was told to check; None for none. A few utterances may then be missing, since
            those that can't be used are left out after the check.

        Returns
        -------
        bool
        """
        if sizes == self.sizes:
            return release is None or str(release) == self.release
        if release is None or str(release) != self.release or sizes.keys() != self.sizes.keys():
            return False
        return all(0 <= size - sizes[split] <= _UNUSABLE * size for split, size in self.sizes.items())


def read_figures(recipe: str | Path) -> list[Figure]:
    """Read the paper's figures of a recipe.

    Parameters
    ----------
    recipe
        Its folder, with ``paper.csv``: a line a row of a table, with the columns that `Figure` has, but for ``train``,
        ``valid`` and ``test`` in place of the sizes and the three dimensions in place of the values.

    Returns
    -------
    list[Figure]
        Empty for a recipe that keeps none.

    Raises
    ------
    InputError
        If the file can't be read.
    """
    path = Path(recipe) / "paper.csv"
    return [_figure(row, f"{path}, line {line}") for line, row in read_rows(path, _COLUMNS)] if path.is_file() else []


def _figure(row: dict[str, str], where: str) -> Figure:
    try:
        sizes = {split: int(row[split]) for split in _SPLITS}
        values = tuple(float(row[dimension]) for dimension in DIMENSIONS)
    except ValueError as error:
        raise InputError(f"{where}: {error}; give sizes as whole numbers and values as numbers.") from None
    named = {name: row[name] for name in ("table", "row", "release", "split", "system", "statistic")}
    return Figure(**named, sizes=sizes, values=values)


def figures_of_run(recipe: str | Path, hparams: dict[str, Any], manifests: "dict[str, Manifest]") -> list[Figure]:
    """Return the paper's figures of a system, if the manifests are of the release that they belong to.

    Parameters
    ----------
    recipe
        See `read_figures`.
    hparams
        ``system``, and ``release`` where the corpus has several.
    manifests
        Of all splits.

    Returns
    -------
    list[Figure]
    """
    sizes = {name: len(manifest.utterances) for name, manifest in manifests.items() if name != UNRATED}
    return [
        figure
        for figure in read_figures(recipe)
        if figure.system == hparams["system"] and figure.belongs_to(sizes, hparams.get("release"))
    ]
