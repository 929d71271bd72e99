"""Turn a Hugging Face model folder into an artifact: source, quantize once, pack four times, verify."""
