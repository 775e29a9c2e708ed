"""Matrix products: transposes become flags of ``Gemm``, and what is added to a product becomes its
third operand.

    Transpose(Transpose(A))           ->  A
    MatMul(Transpose(A), B)           ->  Gemm(A, B, transA=1)
    Transpose(Gemm(A, B))             ->  Gemm(B, A) with the flags swapped and turned
    beta V + alpha MatMul(A, B)       ->  Gemm(A, B, V, alpha, beta)

The last one is the update of a weight matrix: velocity, gradient and learning rate in one operator.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.host.compile.rewrite._values import (
    is_matrix,
    is_private,
    producer,
    replace,
    replace_by_value,
    scalar,
    shape,
)


def use_transpose_flags(graph: ir.Graph) -> bool:
    """Take transposes of matrices into the products that read or feed them."""
    changed = False
    for node in list(graph):
        if node.op_type == "Transpose" and _turns_matrix(node):
            changed |= _cancel(node) or _turn_product(node)
        elif node.op_type in ("MatMul", "Gemm") and all(
            is_matrix(value) for value in node.inputs[:2]
        ):
            changed |= _absorb(node)
    return changed


def accumulate_in_product(graph: ir.Graph) -> bool:
    """Take the other term of a sum, and constant factors of both, into the product."""
    changed = False
    for node in list(graph):
        if node.op_type in ("Add", "Sub") and is_matrix(node.outputs[0]):
            changed |= _accumulate(node)
    return changed


def _cancel(node: ir.Node) -> bool:
    inner = _transposed(node.inputs[0])
    if inner is None:
        return False
    replace_by_value(node, inner)
    return True


def _turn_product(node: ir.Node) -> bool:
    """``(A B)^T = B^T A^T``, where nobody else reads the product and it adds nothing."""
    made = node.inputs[0]
    product = _product(made)
    if product is None or made is None or not is_private(made) or _addend(product) is not None:
        return False
    alpha, a, b, flag_a, flag_b = _parts(product)
    replace(node, _gemm(b, a, None, not flag_b, not flag_a, alpha, 0.0))
    return True


def _absorb(node: ir.Node) -> bool:
    alpha, a, b, flag_a, flag_b = _parts(node)
    inner_a, inner_b = _transposed(a), _transposed(b)
    if inner_a is None and inner_b is None:
        return False
    new_a, flag_a = (a, flag_a) if inner_a is None else (inner_a, not flag_a)
    new_b, flag_b = (b, flag_b) if inner_b is None else (inner_b, not flag_b)
    beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
    replace(node, _gemm(new_a, new_b, _addend(node), flag_a, flag_b, alpha, beta))
    return True


def _accumulate(node: ir.Node) -> bool:
    for place in (0, 1):
        sign = -1.0 if node.op_type == "Sub" and place == 1 else 1.0
        other_sign = -1.0 if node.op_type == "Sub" and place == 0 else 1.0
        found = _scaled_product(node.inputs[place], sign)
        if found is None:
            continue
        product, alpha = found
        if _addend(product) is not None or shape(product.outputs[0]) != shape(node.outputs[0]):
            continue
        other, beta = _unscale(node.inputs[1 - place], other_sign)
        if not _broadcasts(other, node.outputs[0]):
            other, beta = node.inputs[1 - place], other_sign
            if not _broadcasts(other, node.outputs[0]):
                continue
        own, a, b, flag_a, flag_b = _parts(product)
        replace(node, _gemm(a, b, other, flag_a, flag_b, alpha * own, beta))
        return True
    return False


def _scaled_product(value: ir.Value | None, factor: float) -> tuple[ir.Node, float] | None:
    """The product behind constant factors, all of it read only here."""
    while value is not None and is_private(value):
        product = _product(value)
        if product is not None:
            return product, factor
        inner, factor = _unscale_once(value, factor)
        if inner is value:
            return None
        value = inner
    return None


def _unscale(value: ir.Value | None, factor: float) -> tuple[ir.Value | None, float]:
    while value is not None:
        inner, factor = _unscale_once(value, factor)
        if inner is value:
            break
        value = inner
    return value, factor


def _unscale_once(value: ir.Value, factor: float) -> tuple[ir.Value, float]:
    if (node := producer(value, "Neg")) is not None and node.inputs[0] is not None:
        return node.inputs[0], -factor
    if (node := producer(value, "Mul")) is not None:
        for place in (0, 1):
            constant = scalar(node.inputs[place])
            inner = node.inputs[1 - place]
            if constant is not None and inner is not None and shape(inner) == shape(value):
                return inner, factor * constant
    return value, factor


def _broadcasts(value: ir.Value | None, to: ir.Value) -> bool:
    """Whether ``value`` may be the third operand of a product of this shape."""
    small, large = shape(value), shape(to)
    if small is None or large is None or len(small) > 2:
        return False
    return all(
        size in (1, whole) for size, whole in zip(reversed(small), reversed(large), strict=False)
    )


def _product(value: ir.Value | None) -> ir.Node | None:
    node = producer(value, "MatMul") or producer(value, "Gemm")
    return (
        node
        if node is not None and all(is_matrix(operand) for operand in node.inputs[:2])
        else None
    )


def _addend(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None


def _parts(node: ir.Node) -> tuple[float, ir.Value, ir.Value, bool, bool]:
    """``(alpha, A, B, transA, transB)`` of a product of matrices."""
    a, b = node.inputs[:2]
    assert a is not None and b is not None
    given = node.attributes
    alpha = given["alpha"].as_float() if "alpha" in given else 1.0
    flags = [
        bool(given[name].as_int()) if name in given else False for name in ("transA", "transB")
    ]
    return alpha, a, b, flags[0], flags[1]


def _gemm(
    a: ir.Value,
    b: ir.Value,
    c: ir.Value | None,
    flag_a: bool,
    flag_b: bool,
    alpha: float,
    beta: float,
) -> ir.Node:
    attributes: dict[str, float | int] = {
        "alpha": float(alpha),
        "transA": int(flag_a),
        "transB": int(flag_b),
    }
    if c is not None:
        attributes["beta"] = float(beta)
    return ir.node("Gemm", [a, b] if c is None else [a, b, c], attributes)


def _transposed(value: ir.Value | None) -> ir.Value | None:
    node = producer(value, "Transpose")
    return node.inputs[0] if node is not None and _turns_matrix(node) else None


def _turns_matrix(node: ir.Node) -> bool:
    """Whether a ``Transpose`` swaps two axes, which are all it has; the order (0, 1) swaps none."""
    return is_matrix(node.inputs[0]) and (
        "perm" not in node.attributes or list(node.attributes["perm"].as_ints()) == [1, 0]
    )
