"""The contrastive stage, fed by Ray, from tensors in memory and by a DataLoader."""
