"""Parts of DenseCLIP (2112.01518)."""
