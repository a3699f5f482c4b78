"""Every public function says what it takes and gives."""

import ast
from pathlib import Path

import ser_ts_lobes

ROOT = Path(ser_ts_lobes.__file__).parent


def public_functions(body, where):
    """Functions of a module and methods of its public classes; of SpeechBrain's and PyTorch's hooks, too."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{where}.{node.name}")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield f"{where}.{node.name}", node


def untyped(node):
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.annotation is None]
    return [name for name in names if name not in ("self", "cls")] + ["its result"] * (node.returns is None)


def test_public_functions_have_types():
    missing = {
        f"{where}: {', '.join(names)}"
        for path in ROOT.rglob("*.py")
        for where, node in public_functions(
            ast.parse(path.read_text(encoding="utf-8")).body, ".".join(path.relative_to(ROOT).with_suffix("").parts)
        )
        if (names := untyped(node))
    }
    assert not missing, "\n".join(sorted(missing))
