"""Scene graphs as published data sets write them."""
