"""How the C library gives memory back to the system."""

import ctypes

# Parameters of glibc's mallopt (mallopt(3)), and the most that one takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST = -1, -3, 2**31 - 1


def keep_freed_memory() -> None:
  """Makes freed memory stay with the process, ready for the next program.

  XLA on a CPU allocates the arrays of a program at each dispatch.  By default
  the C library takes large ones from the system each time, which clears every
  page again: 30 ms of a dispatch of 0.5 s at width 128.  Does nothing where the
  C library has no mallopt.
  """
  library = ctypes.CDLL(None)
  if hasattr(library, 'mallopt'):
    library.mallopt(_MMAP_THRESHOLD, _MOST)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
