"""What is true, and what helps, when the machine does not give what it must."""

import errno
import pathlib
import re

MEMORY = (
  'too little memory: a smaller --batch_size, more --microbatches, fewer '
  '--lanes or --workers, or --backend=chunked needs less'
)
# What is wrong, and what to do before the command is repeated.
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
    'look after the disk, or move the folder to another',
  ),
  errno.ESTALE: (
    'the folder is gone from its server',
    'mount it anew, or give a --workdir on a local disk',
  ),
  errno.EMFILE: ('too many files are open', 'allow more (ulimit -n)'),
  errno.ENFILE: ('too many files are open', 'allow more (sysctl fs.file-max)'),
  errno.ENOMEM: (MEMORY, 'make memory free'),
}
_TOO_LARGE = re.compile(
  r'RESOURCE_EXHAUSTED|out of memory|bad_alloc|^MemoryError'
  r"|cannot allocate memory|can't start new thread|failed to map segment",
  re.IGNORECASE,
)


def of_the_disk(workdir: pathlib.Path, error: OSError) -> tuple[str, str]:
  """Returns what became of a working directory, and what to do about it."""
  if not (workdir / '.lock').exists():
    return (
      f'{workdir}: was removed or renamed during the run (what was in it went '
      'with it)',
      'put it back, or remove what is left of it and begin anew',
    )
  known = _OF_ERRNO.get(error.errno or 0)
  why, fix = known or (error.strerror or str(error), 'mend that')
  name = error.filename
  what = f'{workdir}: cannot be written'
  if isinstance(name, str) and not pathlib.Path(name).is_relative_to(workdir):
    what = f'{name}: cannot be used'
  return f'{what} ({why}); what was saved is kept', fix


def of_memory(error: Exception) -> str | None:
  """Returns an error in one line, if memory was too little."""
  text = f'{type(error).__name__}: {error}'
  first = text.splitlines()[0][:200]
  return f'{MEMORY} ({first})' if _TOO_LARGE.search(text) else None
