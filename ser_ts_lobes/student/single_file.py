"""One Python file out of the package's: what a class needs, for environments without the package."""

import ast
import importlib.util
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

# What a module defines at its top level.
_Definition = ast.FunctionDef | ast.ClassDef | ast.Assign
# Where a name is from: a module, the name there (None for the module itself), the name here.
_Import = tuple[str, str | None, str]

_PACKAGE = __name__.split(".")[0]


def compose(module: str, name: str, docstring: str) -> str:
    """Write a class, and all that it needs of this package, as the source of one module.

    Definitions keep their wording and their order, a module's behind those of the modules that it imports. Only what
    is reached from the class, by the names that code mentions, is taken.

    Parameters
    ----------
    module
        Where the class is, such as ``ser_ts_lobes.student.inference``.
    name
        The class.
    docstring
        What the file says of itself.

    Returns
    -------
    str
        Source that imports nothing of this package.

    Raises
    ------
    ValueError
        If two modules define one of the names, or import from this package in another way than
        ``from module import name``.

    Example
    -------
    >>> source = compose("ser_ts_lobes.errors", "InputError", "Errors.")
    >>> "class InputError(ValueError)" in source, "plain_errors" in source
    (True, False)
    """
    modules: dict[str, _Module] = {}
    _read(module, modules)
    needed, imports = _reach(modules, module, name)
    _check_distinct(needed)
    sections = [f'"""{docstring}"""', _write_imports(imports)]
    for read in modules.values():
        if read.name in needed:
            sections.append(f"# {f' {read.name} ':-^100}\n\n\n{read.write(needed[read.name])}")
    return "\n\n\n".join(sections) + "\n"


class _Module:
    """The top level of a module: what it defines, and what it imports."""

    def __init__(self, name: str) -> None:
        self.name = name
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None  # it has been imported from, so it is a file
        source = Path(spec.origin).read_text(encoding="utf-8")
        self.lines = source.splitlines()
        self.definitions: dict[str, _Definition] = {}
        # By name: (module, name there), or (import statement, None).
        self.imports: defaultdict[str, list[tuple[str, str | None]]] = defaultdict(list)
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign):
                targets = [target for assigned in node.targets for target in ast.walk(assigned)]
                self.definitions |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None  # the package has no relative imports
                for alias in node.names:
                    self.imports[alias.asname or alias.name].append((node.module, alias.name))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.split(".")[0]
                    self.imports[bound].append((f"import {ast.unparse(alias)}", None))

    def write(self, names: Iterable[str]) -> str:
        """Give the source of some definitions, with the comments right above them."""
        nodes = sorted({self.definitions[name] for name in names}, key=lambda node: node.lineno)
        return "\n\n\n".join(self._source(node) for node in nodes)

    def _source(self, node: _Definition) -> str:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : node.end_lineno])


def _read(name: str, modules: dict[str, _Module]) -> None:
    """Read a module, after those of this package that it imports."""
    if name in modules:
        return
    module = _Module(name)
    for origins in module.imports.values():
        for origin, original in origins:
            if original and origin.split(".")[0] == _PACKAGE:
                _read(origin, modules)
    modules[name] = module


def _reach(modules: dict[str, _Module], module: str, name: str) -> tuple[dict[str, set[str]], set[_Import]]:
    """Find what a name needs: names by module of this package, and (module, name) of other packages."""
    needed: defaultdict[str, set[str]] = defaultdict(set)
    imports: set[_Import] = set()
    todo = [(module, name)]
    while todo:
        module, name = todo.pop()
        read = modules[module]
        if name in needed[module]:
            continue
        if name in read.definitions:
            needed[module].add(name)
            nodes = ast.walk(read.definitions[name])
            todo += [(module, node.id) for node in nodes if isinstance(node, ast.Name)]
            continue
        for origin, original in read.imports.get(name, []):  # any other name is built in or local
            if original is None or origin.split(".")[0] != _PACKAGE:
                imports.add((origin, original, name))
            elif original == name and original in modules[origin].definitions:
                todo.append((origin, name))
            else:
                raise ValueError(f"{module}: {origin}.{original} as {name} can't go into a single file.")
    return {module: names for module, names in needed.items() if names}, imports


def _check_distinct(needed: dict[str, set[str]]) -> None:
    owners: dict[str, str] = {}
    for module, names in needed.items():
        for name in names:
            if owners.setdefault(name, module) != module:
                raise ValueError(f"{owners[name]} and {module} both define {name}: rename one of them.")


def _write_imports(imports: set[_Import]) -> str:
    lines = {origin for origin, original, _ in imports if original is None}
    by_module: defaultdict[str, set[str]] = defaultdict(set)
    for origin, original, name in imports:
        if original is not None:
            by_module[origin].add(original if original == name else f"{original} as {name}")
    lines |= {f"from {origin} import {', '.join(sorted(names))}" for origin, names in by_module.items()}
    return "\n".join(sorted(lines))
