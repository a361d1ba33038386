"""Opening and saving models: by address, from model folders, and from Python packages. `foreign/` opens models of other libraries,
`export/` writes models for them."""
