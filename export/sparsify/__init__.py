"""Unstructured and N:M sparsity: zeros in the decoder's linears, shapes unchanged."""
