"""An ONNX model and how to feed it: from an image to its embedding."""
