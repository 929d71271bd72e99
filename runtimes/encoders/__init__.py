"""Hidden states of a decoder from each engine, behind edgeport.runtimes.encoder.Encoder."""
