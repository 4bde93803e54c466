"""Matrix products whose weights depend on the row: what task_ffn and moe_mlp share. Not public."""
