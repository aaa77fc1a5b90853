"""How the steps of a scenario are made real: each from outside, by pid, socket, file or HTTP, and each with its healing."""
