"""The parts of `heedful.explain.debias`: losses, the differentiable map, images with masks, the training."""
