"""Runs one measurement: NAME and its arguments as a JSON object."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.bench.inside import (
  attention,
  generate,
  launch,
  machine,
  profile,
  reading,
  scaling,
)

Line = Mapping[str, Any]
MEASUREMENTS: Mapping[str, Callable[[Line], Iterator[Line]]] = {
  'attention': attention.measure,
  'generate': generate.measure,
  'launch': launch.measure,
  'machine': machine.measure,
  'profile': profile.measure,
  'reading': reading.measure,
  'scaling': scaling.measure,
}


def main(name: str, given: str) -> None:
  """Prints the lines of a measurement as they come."""
  for line in MEASUREMENTS[name](json.loads(given)):
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
