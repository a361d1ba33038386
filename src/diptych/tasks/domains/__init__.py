"""Tasks of people and tissue: person search and attributes; slides that are detected, subtyped and segmented."""
