"""GLIP: maps and a text that read each other before every round of a dynamic head. Its parts lie in `models.detection`."""
