"""Published weights that open by address: the table of releases, recognition of a file, and openers of single releases."""
