"""Models in and out: by address, folders of ours, encoders that come in packages; `foreign/` opens other libraries' models, `export/`
writes ours for them."""
