"""Self-supervised visual pre-training by composing views out of several images."""
