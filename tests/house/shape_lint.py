"""Checks that shape suffixes tell the truth where the source can prove it.

In `logits_BNTS = jnp.einsum('BTNH,BSNH->BNTS', q_BTNH, k_BSNH) * scale` every
operand that carries a suffix must carry exactly its subscripts, and the name
that the result is bound to exactly the output's. Proved through `.astype(...)`,
a sign and a product with something that has no suffix: a scalar, by the rules
for names. A `1` in a suffix is an axis of one element under any letter, and
`...` stands for any axes. Equations that are not literals are not looked at.
"""

import ast
import re
from collections.abc import Iterator

_SUFFIX = re.compile(r'[a-z]\w*?_([A-Z1]{1,8})$')
Finding = tuple[int, str]


def _name(node: ast.expr) -> str:
  """The identifier or string key that an expression goes by."""
  match node:
    case ast.Name(id=name) | ast.Attribute(attr=name):
      return name
    case ast.Subscript(slice=ast.Constant(value=str(name))):
      return name
  return ''


def _equation(node: ast.expr) -> str | None:
  """The literal subscripts of an einsum call, spaces removed."""
  match node:
    case ast.Call(func=func, args=[ast.Constant(value=str(text)), *_]):
      return text.replace(' ', '') if _name(func) == 'einsum' else None
  return None


def _spelled(node: ast.expr) -> str | None:
  """The axes that an expression claims to have, None if it claims none."""
  if equation := _equation(node):
    return equation.partition('->')[2] or None
  match node:
    case ast.Call(func=ast.Attribute(value=value, attr='astype')):
      return _spelled(value)
    case ast.UnaryOp(operand=value):
      return _spelled(value)
    case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
      if _is_scalar(right):
        return _spelled(left)
      return _spelled(right) if _is_scalar(left) else None
  found = _SUFFIX.match(_name(node).lstrip('_'))
  return found.group(1) if found else None


def _is_scalar(node: ast.expr) -> bool:
  if isinstance(node, ast.Constant):
    return True
  return isinstance(node, ast.Name | ast.Attribute) and _spelled(node) is None


def _agree(claimed: str, term: str) -> bool:
  """Whether a suffix can have the subscripts of an einsum term."""
  if '...' in claimed:  # a nested einsum's output: nothing to hold it to
    return True
  axes = ''.join('.' if axis == '1' else axis for axis in claimed)
  if '...' in term:
    head, _, tail = term.partition('...')
    if len(axes) < len(head) + len(tail):
      return False
    axes = axes[: len(head)] + axes[len(axes) - len(tail) :]
    term = head + tail
  return re.fullmatch(axes, term) is not None


def _operands(call: ast.Call, equation: str) -> Iterator[Finding]:
  inputs, arrow, _ = equation.partition('->')
  if not arrow:
    yield call.lineno, f"einsum '{equation}' has no '->': spell the output"
  terms, operands = inputs.split(','), call.args[1:]
  if any(isinstance(operand, ast.Starred) for operand in operands):
    return
  if len(terms) != len(operands):
    yield call.lineno, f"'{equation}' is given {len(operands)} operands"
    return
  for term, operand in zip(terms, operands, strict=True):
    claimed = _spelled(operand)
    if claimed and not _agree(claimed, term):
      yield operand.lineno, f"{ast.unparse(operand)} is used as '{term}'"


def _bindings(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
  """Every (target, value) that binds one expression to one name."""
  for node in ast.walk(tree):
    match node:
      case ast.Assign(targets=targets, value=value):
        yield from ((target, value) for target in targets)
      case ast.AnnAssign(target=target, value=ast.expr() as value):
        yield target, value
      case ast.NamedExpr(target=target, value=value):
        yield target, value


def _holds_einsum(node: ast.expr) -> bool:
  return any(
    isinstance(part, ast.expr) and _equation(part) for part in ast.walk(node)
  )


def check(tree: ast.AST) -> Iterator[Finding]:
  """Yields (line, what is wrong) for every einsum that contradicts a name."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and (equation := _equation(node)):
      yield from _operands(node, equation)
  for target, value in _bindings(tree):
    # Renaming an axis (k_BSD = x_BTD) is no contradiction, so einsums only.
    if not _holds_einsum(value):
      continue
    claimed, term = _spelled(target), _spelled(value)
    if claimed and term and not _agree(claimed, term):
      yield target.lineno, f"{ast.unparse(target)} is bound to '{term}'"
