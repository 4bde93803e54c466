"""One folder per operator: its specification in plain torch, and its fast back ends."""
