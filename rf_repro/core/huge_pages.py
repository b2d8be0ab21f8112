"""Memory in pages of 2 MB in place of 4 KB, where Linux gives them to whom asks (transparent_hugepage: madvise, or always).

A step at `tiny` walks through hundreds of megabytes. With small pages the processor looks up where each lies, on a virtual
machine twice over, and that can take as long as the step's arithmetic.
"""

import os

TUNABLE = "glibc.malloc.hugetlb"


def ask_for_huge_pages() -> None:
    """Asks by variables, of which a user's own hold: for this process's tensors, if it has not made one yet, and for all memory
    of the processes it starts. Other systems, and other C libraries than glibc 2.35, mind neither."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch's
    given = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE not in given:
        os.environ["GLIBC_TUNABLES"] = ":".join([*filter(None, [given]), f"{TUNABLE}=1"])
