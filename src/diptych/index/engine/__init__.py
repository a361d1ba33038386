"""Where vectors are kept and compared: a folder on this machine, a Qdrant server, or an index that another process has open."""
