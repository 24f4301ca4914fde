"""How freed memory is kept or given back. Settings of the whole process; where the system has none, nothing happens."""

import ctypes
import os
import platform

_THRESHOLDS = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3}  # glibc's numbers for them
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a batch gave back for the next one, which is to be of the same size.

    Else each batch's feature maps come from the kernel anew, page by page, which may take longer than the network.
    """
    if (libc := _glibc()) is not None:
        for parameter in _THRESHOLDS.values():
            libc.mallopt(parameter, _KEPT)


def give_back_freed_memory() -> None:
    """Have glibc give all that is free back to the system: what lies between pieces that are in use it keeps."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def use_huge_pages() -> None:
    """Have torch ask for large tensors in pages of 2 MB, of which few are many: Linux only.

    To be called before the first tensor is made. $THP_MEM_ALLOC_ENABLE, if it is set, is left as it is.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
