"""DejaVu Sans 2.37, regular and bold, under the licence in LICENSE_DEJAVU: the same letters on every machine."""
