"""RLIPv2 and its relatives: entities and the relations between them."""
