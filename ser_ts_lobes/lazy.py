"""Names that a package gives without importing the modules that they are in."""

import importlib
import sys


def give_names(package: str, **modules: str) -> tuple:
    """Let a package give names of its modules, each imported when one of its names is first asked for (PEP 562).

    So ``from ser_ts_lobes.training import ccc_loss`` works, and to enter a package costs nothing.

    Parameters
    ----------
    package
        Its ``__name__``.
    **modules
        By module of the package, the names that are taken from it, with spaces between them.

    Returns
    -------
    tuple
        The package's ``__getattr__``, ``__dir__`` and ``__all__``.

    Example
    -------
    >>> get, _, names = give_names("ser_ts_lobes.training", losses="ccc_loss", targets="TeacherTargets")
    >>> names
    ['TeacherTargets', 'ccc_loss']
    >>> get("ccc_loss").__module__
    'ser_ts_lobes.training.losses'
    """
    module_of = {name: f"{package}.{module}" for module, names in modules.items() for name in names.split()}

    def get(name):
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of[name]), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of}), sorted(module_of)
