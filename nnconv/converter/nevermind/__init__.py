"""nevermind-neu: its models and optimizers in YAML, its weights and data sets in protobuf."""
