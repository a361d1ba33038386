"""Source code of a program: its imports, and its syntax without the parts that cannot change a result."""
