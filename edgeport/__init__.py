"""edgeport: quantize a Hugging Face model once, pack it for every engine, measure it on the device."""

__version__ = "0.1.0"
