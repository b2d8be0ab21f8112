"""One module a subcommand: `add_parser` declares it, `run` does it. Heavy imports wait until `run`."""
