"""The model at work: the one door to onnxruntime, and the store that says which bundle judges."""
