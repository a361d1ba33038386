"""Engine that runs a curation step over a pool: parts, tables, resume."""
