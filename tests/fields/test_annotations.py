"""Every tensor of a public signature in `fields` has its shape in the annotation; beartype checks it in all other tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

FIELDS = Path(__file__).parents[2] / "fields"


def public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its public classes, without those that are named as private."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.name == "__init__" or node.name[0] != "_"):
            yield node


def bare_tensors(annotation: ast.expr | None) -> bool:
    """Whether `Tensor` or `torch.Tensor` stands in an annotation outside of jaxtyping's `Float[Tensor, "..."]`."""
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return bare_tensors(ast.parse(annotation.value, mode="eval").body)
    shaped = isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in (
        "Float",
        "Int",
        "Bool",
        "Shaped",
        "Num",
    )
    if shaped:
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return ast.unparse(annotation) in ("Tensor", "torch.Tensor")
    return any(bare_tensors(child) for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr))


def unshaped() -> list[str]:
    found = []
    for path in sorted(FIELDS.rglob("*.py")):
        for function in public_functions(ast.parse(path.read_text())):
            a = function.args
            arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
            annotations = [argument.annotation for argument in arguments] + [function.returns]
            if any(bare_tensors(annotation) for annotation in annotations):
                found.append(f"{path.relative_to(FIELDS.parent)}:{function.lineno} {function.name}")
    return found


def test_every_public_tensor_has_a_shape():
    assert unshaped() == []
