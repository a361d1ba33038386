"""Policy gradients on plain tensors: advantages, the clipped surrogate, action masks and the distance from a reference policy."""
