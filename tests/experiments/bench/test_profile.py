"""Operations of a profile get the names of what they compute."""

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.bench.inside import profile

# As XLA writes it: frames first, then operations with the frame they come from.
# Of a frame, the parent is written as its number and one.
PROGRAM = """HloModule jit_f

FileNames
1 "/x/train/programs/program.py"
2 "/x/model/layers/norm.py"
3 "/x/site-packages/jax/numpy.py"
4 "/x/train/optim/adamw.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=9}
2 {file_name_id=2 function_name_id=1 line=9}
3 {file_name_id=3 function_name_id=1 line=9}
4 {file_name_id=4 function_name_id=1 line=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=2}

ENTRY %main (p: f32[2]) -> f32[2] {
  %dot.1 = f32[16,64]{1,0} dot(%a, %b), metadata={op_name=\
"jit(f)/jvp(T)/Block/Block._feedforward/BTD,DF->BTF/dot_general" \
stack_frame_id=1}
  %fusion.23 = f32[64,16]{1,0} fusion(%a), metadata={op_name=\
"jit(f)/transpose(jvp(T))/Block/Block._attention/mul" stack_frame_id=1}
  %fusion.4 = f32[8]{0} fusion(%a), metadata={op_name="jit(f)/Block/add" \
stack_frame_id=3}
  ROOT %fusion.5 = f32[] fusion(%a), metadata={op_name="jit(f)/sqrt" \
stack_frame_id=4}
  %copy.7 = f32[3,4]{1,0} copy(%a)
  %fusion.8 = f32[2]{0} fusion(%a), metadata={op_name=\
"jit(f)/transpose(jvp(jit(log_softmax)))" stack_frame_id=1}
  %while.2 = (s32[], f32[2]{0}) while(%t)
}
"""


@pytest.mark.parametrize(
  ('operation', 'name'),
  [
    ('dot.1', 'feed-forward: BTD,DF->BTF 16x64'),
    ('fusion.23', 'attention, gradient: mul 64x16'),
    ('fusion.4', 'norm: add 8'),  # the file that called a library
    ('fusion.5', 'update: sqrt'),
    ('copy.7', 'program: copy 3x4'),
    ('fusion.8', 'program, gradient: fusion 2'),
  ],
)
def test_names(operation: str, name: str) -> None:
  assert profile.operation_names(PROGRAM)[operation] == name


def line(name: str, *events: tuple[str, float]) -> Any:
  made = [
    SimpleNamespace(stats=[('hlo_op', op)] if op else [], duration_ns=ns)
    for op, ns in events
  ]
  return SimpleNamespace(name=name, events=made)


def planes(*given: tuple[str, Any]) -> Any:
  made = [SimpleNamespace(name=name, lines=lines) for name, lines in given]
  return SimpleNamespace(planes=made)


def test_a_cpu_is_summed_over_its_threads() -> None:
  threads = [
    line('tf_XLAEigen/1', ('dot.1', 2.0), ('', 100.0)),
    line('tf_XLAEigen/2', ('dot.1', 3.0), ('copy.7', 1.0)),
    line('python', ('dot.1', 100.0)),
  ]
  found = profile.durations(planes(('/host:CPU', threads)))
  assert found == {'dot.1': (5.0, 2), 'copy.7': (1.0, 1)}


def test_an_accelerator_is_summed_over_its_streams() -> None:
  device = [
    line('Stream #13', ('dot.1', 2.0)),
    line('XLA Ops', ('dot.1', 2.0)),  # the same time once more
  ]
  host = [line('tf_XLAEigen/1', ('dot.1', 9.0))]
  found = profile.durations(
    planes(('/device:GPU:0', device), ('/host:CPU', host))
  )
  assert found == {'dot.1': (2.0, 1)}
