"""Pages of an application: buttons, fields and icons with instructions to act on one of them."""
