"""Sources of a program: what it imports, and its syntax without what cannot change a result."""
