"""The command line, floor 4: one module a group of verbs, loaded when one of its verbs is used."""
