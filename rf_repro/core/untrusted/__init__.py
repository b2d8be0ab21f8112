"""Files that come from strangers: nothing of them is executed, unpickled or unpacked to disk, and what a file declares is checked
before it is read. Nothing here needs torch."""
