"""Real data as it is stored: webdataset tars, Hugging Face's Parquet and Arrow, JSON lines beside images.

Nothing here needs torch. Data comes from strangers, and is read as `rf_repro.core.untrusted` says.
"""

from rf_repro.core.untrusted.problems import CorruptSample
from rf_repro.data.shards.listing import fingerprint, list_shards
from rf_repro.data.shards.reading import read_shard, shard_length
from rf_repro.data.shards.samples import RawSample, Turn

__all__ = ["CorruptSample", "RawSample", "Turn", "fingerprint", "list_shards", "read_shard", "shard_length"]
