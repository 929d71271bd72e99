"""Run an exported model: light adapters over onnxruntime, OpenVINO and llama.cpp. No torch, no transformers."""
