"""Open what was written: independent readers, token parity, logits and text from each container's own engine."""
