"""How each family of models is built: from the fields of its config.json to every tensor of its checkpoint."""
