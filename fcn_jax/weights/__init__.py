"""Arrays from and to files: checkpoints, PyTorch's state dicts, torchvision's weights."""
