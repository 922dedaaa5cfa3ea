"""Pure rules: values in, values out. No clock, no id generator, no I/O."""
