"""What the layers of a model see: attention distance, representations, features, SIFT keypoints."""
