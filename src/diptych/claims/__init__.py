"""Published method against its own baseline, on record: what is claimed, the cells that were run, the verdict, the ledger."""
