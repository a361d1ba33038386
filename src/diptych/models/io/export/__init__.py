"""Our models for other tools: folders of transformers and open_clip, ONNX files."""
