"""PE-Net's own parts: the prototype head, features of pairs, the whole network, and the network ready for use."""
