"""Real data as it is stored: webdataset tars, Hugging Face's Parquet and Arrow, JSON lines beside images.

Nothing here needs torch. Data comes from strangers: nothing of it is executed, unpickled or unpacked to disk, and what a file
declares is checked before it is read.
"""

from rf_repro.data.shards.listing import fingerprint, list_shards
from rf_repro.data.shards.reading import read_shard, shard_length
from rf_repro.data.shards.samples import CorruptSample, RawSample, Turn

__all__ = ["CorruptSample", "RawSample", "Turn", "fingerprint", "list_shards", "read_shard", "shard_length"]
