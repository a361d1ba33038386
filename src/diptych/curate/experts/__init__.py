"""Vision experts: findings with scores and boxes, from frozen models or from the data themselves."""
