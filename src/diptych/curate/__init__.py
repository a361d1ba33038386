"""Curation: pool in, pool out. Every step reports which rows it dropped and why, independent of the order of rows."""
