"""The formats' own schemes, beside the portable one: GGUF K-quants, bitsandbytes NF4 and LLM.int8."""
