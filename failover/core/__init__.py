"""The pure decision core: values in, values out. No clock, no I/O, no log, no await; start with `decide`."""
