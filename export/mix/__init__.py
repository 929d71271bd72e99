"""Mixed precision: measured sensitivity of each group of tensors, and an exact knapsack over the byte budget."""
