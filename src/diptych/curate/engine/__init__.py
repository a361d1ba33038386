"""How a step runs over a pool: parts, tables, resume."""
