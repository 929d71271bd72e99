"""Encoders (BERT, RoBERTa, XLM-RoBERTa, DistilBERT): read, quantize, pack and prove, beside the path of the decoders."""
