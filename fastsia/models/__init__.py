"""From a model's name to its weights: the registry, the resolution of names, loading and its checks."""
