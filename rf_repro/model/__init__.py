"""The decoder, the encoder and their assembly into the RF model."""
