"""An ONNX model and its preprocessing: from an image to its embedding."""
