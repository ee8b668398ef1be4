"""Rules for the operators of a backward pass, one module a family of the forward one."""
