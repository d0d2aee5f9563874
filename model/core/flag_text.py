"""Writes a record as flat `{flag: text}`."""

from model.core.field import Record, Variant, field_types, is_section, unparse


def to_flags(record: Record, prefix: str = '') -> dict[str, str]:
  """Returns `{flag: text}` of `record`; `override` is the inverse."""
  out: dict[str, str] = {}
  for name, hint in field_types(type(record)).items():
    path, value = prefix + name, vars(record)[name]
    if is_section(hint):
      out |= to_flags(value, prefix)
      continue
    out[path] = unparse(value)
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
      if isinstance(item, Variant):
        out |= to_flags(item, f'{path}.')
  return out
