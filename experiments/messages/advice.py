"""Error messages with advice, for a full disk or too little memory."""

import errno
import os
import pathlib
import re

MEMORY = (
  'too little memory: a smaller --batch_size, more --microbatches, fewer '
  '--lanes or --workers, or --backend=chunked needs less'
)
# The problem, and what to do before repeating the command.
_OF_ERRNO = {
  errno.ENOSPC: ('the disk is full', 'make room'),
  errno.EDQUOT: ('the quota is used up', 'make room'),
  errno.EFBIG: (
    'a file would be larger than is allowed',
    'make room (ulimit -f)',
  ),
  errno.EROFS: (
    'the file system is read-only',
    'mount it for writing, or move the folder',
  ),
  errno.EACCES: ('permission denied', 'allow writing there (chmod, chown)'),
  errno.EPERM: ('it is not permitted', 'allow writing there (chmod, chown)'),
  errno.EIO: (
    'the disk fails to read or write',
    'check the disk, or move the folder to another',
  ),
  errno.ESTALE: (
    'the folder is gone from its server',
    'mount it again, or give a --workdir on a local disk',
  ),
  errno.EMFILE: ('too many files are open', 'allow more (ulimit -n)'),
  errno.ENFILE: ('too many files are open', 'allow more (sysctl fs.file-max)'),
  errno.ENOMEM: (MEMORY, 'free some memory'),
}
_TOO_LARGE = re.compile(
  r'RESOURCE_EXHAUSTED|out of memory|bad_alloc|^MemoryError'
  r"|cannot allocate memory|can't start new thread|failed to map segment",
  re.IGNORECASE,
)


def disk_advice(workdir: pathlib.Path, error: OSError) -> tuple[str, str]:
  """Returns the fault of a working directory, and how to mend it."""
  if not (workdir / '.lock').exists():
    return (
      f'{workdir}: was removed or renamed during the run (what was in it went '
      'with it)',
      'put it back, or remove what is left of it and begin again',
    )
  known = _OF_ERRNO.get(error.errno or 0)
  why, fix = known or (error.strerror or str(error), 'mend that')
  name = error.filename
  what = f'{workdir}: cannot be written'
  if isinstance(name, str) and not pathlib.Path(name).is_relative_to(workdir):
    what = f'{name}: cannot be used'
  return f'{what} ({why}); what was saved is kept', fix


def memory_advice(error: Exception) -> str | None:
  """Returns a line of advice if an error means too little memory, else None."""
  text = f'{type(error).__name__}: {error}'
  first = text.splitlines()[0][:200]
  return f'{MEMORY} ({first})' if _TOO_LARGE.search(text) else None


def one_line(error: Exception) -> str:
  """Returns the type and the first line of an error."""
  first = str(error).splitlines()[0] if str(error) else ''
  plain = f'{type(error).__name__}: {first}'[:300]
  return memory_advice(error) or plain


def disk_error(error: Exception) -> OSError | None:
  """Returns the disk error that Orbax has wrapped in its own, or None."""
  for code in (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.ESTALE,
  ):
    if os.strerror(code) in str(error):
      return OSError(code, os.strerror(code))
  return None
