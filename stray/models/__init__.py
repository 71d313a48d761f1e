"""Neural networks. Each takes its noise as an argument and meets other workers only through `stray.collective`."""
