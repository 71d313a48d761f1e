"""Training data as a worker reads it: batches, blocks of arrays, streams, and the way to the device."""
