"""Which kernels a container will use on this processor: per group of tensors, with the cause and the cure of slow ones.

The proof is the engine's own: llama.cpp's load log, ONNX Runtime's optimized graph, OpenVINO's compiled model.
"""
