"""Complete pages, one module per kind; their building blocks are in the parent package."""
