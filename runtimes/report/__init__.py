"""What was measured, told: the report page, the model card, and the rows of numbers both are made of."""
