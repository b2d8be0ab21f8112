"""Where and in what it is computed: devices, arithmetic, ranks, sharding."""
