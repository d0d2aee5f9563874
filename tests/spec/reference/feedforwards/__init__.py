"""Feed-forward layers: one file each, found by itself, named like its choice.

A file holds `loop(variant, params, x_D)`: what the layer gives for one token.
"""

import importlib
import pkgutil
from typing import Any

FEEDFORWARDS: dict[str, Any] = {
  'none': None,  # No such sub-layer.
  **{
    file.name: importlib.import_module(f'{__name__}.{file.name}').loop
    for file in pkgutil.iter_modules(__path__)
  },
}
