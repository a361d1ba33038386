"""Pool in, pool out: every step says which rows it dropped and why, and gives the same answer in any order of rows."""
