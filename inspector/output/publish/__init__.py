"""The page without a server: a network, ONNX Runtime Web and the viewer in a folder that any static host serves."""
